"""Starting a worker: what it gets, what is said where it cannot be started, and that nothing is left then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from runtime import SplitError, SplitLlama
from runtime.errors import EndpointError, WorkerDied, WorkerError, WorkerTimeout
from tests.runtime.peers import (
    Footprint,
    leftovers,
    small_checkpoint,
    tiny,
    wait_until,
    worker_pid,
)

PROMPT = list(range(20))


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_worker_that_does_not_start_in_time_is_a_timeout_and_leaves_nothing(
    stage: str, folder: Path
) -> None:
    before = Footprint.of()
    with pytest.raises(WorkerTimeout):
        SplitLlama.launch(tiny(), stage, start_timeout_s=0.1)
    assert Footprint.of() == before
    assert leftovers(folder) == []


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_worker_that_cannot_start_says_why_and_leaves_nothing(
    stage: str, folder: Path, tmp_path: Path
) -> None:
    checkpoint = small_checkpoint(tmp_path / "model")
    checkpoint.source = str(tmp_path / "elsewhere")
    before = Footprint.of()
    with pytest.raises(WorkerDied, match="elsewhere"):
        SplitLlama.launch(checkpoint, stage)
    assert Footprint.of() == before
    assert leftovers(folder) == []


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_where_no_process_can_be_started_nothing_is_left(
    stage: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = Footprint.of()
    with pytest.raises((SplitError, OSError)):
        SplitLlama.launch(tiny(), stage)
    assert Footprint.of() == before
    assert leftovers(folder) == []


def test_a_temporary_folder_too_deep_for_a_socket_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = folder / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = Footprint.of()
    with pytest.raises(EndpointError, match=r"too deep for a socket.*set TMPDIR"):
        SplitLlama.launch(tiny(), "baseline")
    SplitLlama.launch(tiny(), "fused", threads=1).close()
    assert wait_until(lambda: Footprint.of() == before), f"{Footprint.of()} was {before}"
    assert leftovers(deep) == []


def test_two_workers_of_one_process_do_not_disturb_each_other(folder: Path) -> None:
    with (
        SplitLlama.launch(tiny(), "shared-memory", threads=1) as first,
        SplitLlama.launch(tiny(), "shared-memory", threads=1) as second,
    ):
        wanted = first.forward(PROMPT)
        os.kill(worker_pid(first), signal.SIGKILL)
        with pytest.raises(WorkerDied):
            first.forward(PROMPT)
        assert second.forward(PROMPT).equal(wanted)
        first.close()
        assert second.forward(PROMPT).equal(wanted)


def test_a_worker_holds_no_descriptor_of_another_ones(folder: Path) -> None:
    # If it did, the end of the one would not be noticed while the other runs.
    with (
        SplitLlama.launch(tiny(), "shared-memory", threads=1),
        SplitLlama.launch(tiny(), "shared-memory", threads=1) as second,
    ):
        links = (
            str(entry.readlink()) for entry in Path(f"/proc/{worker_pid(second)}/fd").iterdir()
        )
        assert sum(link.startswith("socket:") for link in links) == 1


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_nothing_in_the_current_folder_is_run_as_the_worker(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = "import os; os.write(2, b'trapped'); os._exit(9)"
    (tmp_path / "queue.py").write_text(trap)
    (tmp_path / "runtime").mkdir()
    for name in ("__init__", "worker", "parent_watch"):
        (tmp_path / "runtime" / f"{name}.py").write_text(trap)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as an interactive interpreter has it
    with SplitLlama.launch(tiny(), stage, threads=1) as llama:
        llama.forward(PROMPT)


def test_a_worker_is_not_trusted_with_the_users_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with SplitLlama.launch(tiny(), "shared-memory", threads=1) as llama:
        environment = psutil.Process(worker_pid(llama)).environ()
    assert "secret" not in environment.values()
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["OMP_NUM_THREADS"] == "1"


def test_a_python_that_does_not_know_its_program_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(WorkerError, match=r"sys\.executable"):
        SplitLlama.launch(tiny(), "shared-memory")


SHORT = """
import os, resource, sys, runtime
checkpoint = runtime.load_checkpoint("tiny")
runtime.SplitLlama.launch(checkpoint, sys.argv[1], threads=1).close()
before = sorted(os.listdir("/proc/self/fd"))
spare = os.dup(0)
os.close(spare)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
told = 0
for more in range(0, 25, 4):
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + more, hard))
    try:
        runtime.SplitLlama.launch(checkpoint, sys.argv[1], threads=1).close()
    except runtime.SplitError as error:
        told += "Too many open files" in str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert sorted(os.listdir("/proc/self/fd")) == before, more
print(told)
"""


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_without_descriptors_it_says_so_and_the_process_lives_on(stage: str, folder: Path) -> None:
    """Libzmq ends the whole process where it cannot open a file."""
    arguments = [sys.executable, "-c", SHORT, stage]
    told = int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    assert told >= 2
    assert leftovers(folder) == []
