"""How the two processes end, whichever ends first and however: nothing is left, and the next launch works."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from runtime import SplitLlama
from runtime.errors import (
    ArenaError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)
from tests.runtime.peers import (
    Ending,
    Footprint,
    forward_until_it_fails,
    kill_when_computing,
    leftovers,
    run_script,
    small_checkpoint,
    tiny,
    worker_pid,
)
from tests.runtime.soak import Faults, forwards

PROMPT = list(range(20))
# Long enough to be killed in the middle of, on any machine: tens of milliseconds a call.
LONG_PROMPT = [[1] * 1024] * 4
GONE_S = 2.0


# The worker ends first --------------------------------------------------------------------------------


# One stage for each way between the processes.
@pytest.mark.parametrize("stage", ["baseline", "shared-memory", "fused-tcp"])
def test_a_worker_killed_in_the_middle_of_a_call_is_noticed_at_once(
    stage: str, folder: Path
) -> None:
    before = Footprint.of()
    with SplitLlama.launch(tiny(), stage) as llama:
        llama.forward(PROMPT)
        ending = Ending(worker_pid(llama))
        killer = kill_when_computing(worker_pid(llama))
        with pytest.raises(WorkerDied):
            forward_until_it_fails(llama, LONG_PROMPT)
        noticed = time.monotonic()
        killer.join()
        # Not the other way round: the error came no earlier than the death, and within a moment of it.
        assert ending.comes_within(GONE_S)
        assert time.monotonic() - noticed < GONE_S
        with pytest.raises(WorkerError):
            llama.forward(PROMPT)
    assert Footprint.of() == before
    assert leftovers(folder) == []


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_an_idle_worker_that_was_killed_is_noticed_by_the_next_call(
    stage: str, folder: Path
) -> None:
    with SplitLlama.launch(tiny(), stage) as llama:
        ending = Ending(worker_pid(llama))
        os.kill(worker_pid(llama), signal.SIGKILL)
        assert ending.comes_within(GONE_S)
        started = time.monotonic()
        with pytest.raises(WorkerDied):
            llama.forward(PROMPT)
        assert time.monotonic() - started < GONE_S


@pytest.mark.slow
def test_after_random_faults_there_is_a_typed_error_and_nothing_is_left(folder: Path) -> None:
    """``make soak`` is the long form."""
    with Faults(seed=1, folder=folder, stages=("shared-memory",)) as faults:
        for _ in range(3):
            faults.of_a_connected_worker()
        faults.of_a_launched_worker()
        faults.of_a_parent()
    assert leftovers(folder) == []


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_worker_that_hangs_is_a_timeout_and_close_ends_it(stage: str, folder: Path) -> None:
    before = Footprint.of()
    llama = SplitLlama.launch(tiny(), stage, threads=1, timeout_s=1.0)
    try:
        llama.forward(PROMPT)
        ending = Ending(worker_pid(llama))
        os.kill(worker_pid(llama), signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            llama.forward(PROMPT)
        assert 0.9 < time.monotonic() - started < 2.0
        with pytest.raises(WorkerError):
            llama.forward(PROMPT)
    finally:
        started = time.monotonic()
        llama.close()
    assert time.monotonic() - started < 5.0
    assert ending.comes_within(0)
    assert Footprint.of() == before
    assert leftovers(folder) == []


# The trusted side closes ------------------------------------------------------------------------------


# The trusted side is ended ------------------------------------------------------------------------------


# Hundreds of forwards -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_two_hundred_forwards_of_changing_length_make_neither_process_grow(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Free memory goes back to the system at once: else what is counted is chance.
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    before, after = forwards(small_checkpoint(tmp_path), stage, times=200)
    after.assert_flat(before)


def test_a_longer_prompt_later_replaces_the_arena_in_both_processes(tmp_path: Path) -> None:
    with SplitLlama.launch(small_checkpoint(tmp_path), "shared-memory", threads=1) as llama:
        short = llama.forward(PROMPT)
        pid = worker_pid(llama)
        first = Footprint.of(pid), Footprint.of()
        for length in (100, 400, 1600):
            llama.forward([1] * length)
            assert (Footprint.of(pid), Footprint.of()) == first
        assert llama.forward(PROMPT).equal(short)


# Little memory --------------------------------------------------------------------------------------


def can_mount() -> bool:
    mount = "mount -t tmpfs -o size=1M tmpfs /dev/shm"
    command = ["unshare", "-m", *mount.split()]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@pytest.mark.skipif(not can_mount(), reason="mounting a file system needs privileges")
def test_a_small_dev_shm_does_not_matter() -> None:
    code = """
import os, runtime
from tests.runtime.peers import arena_mappings
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 << 20
with runtime.SplitLlama.launch(runtime.load_checkpoint("tiny"), "shared-memory") as llama:
    before = llama.forward([1, 2, 3])
    llama.forward([[1] * 1024] * 4)
    # More than it could hold was shared.
    assert llama._channel._slots.arena.size > 64 << 20
    assert llama.forward([1, 2, 3]).equal(before)
assert os.listdir("/dev/shm") == []
"""
    mount = 'mount -t tmpfs -o size=64M tmpfs /dev/shm && exec "$@"'
    run_script(code, "unshare", "-m", "sh", "-c", mount, "sh")


def test_a_prompt_too_long_for_the_memory_is_refused_and_a_shorter_one_works_after_it() -> None:
    code = """
import resource, runtime
from runtime.errors import ArenaError
from tests.runtime.peers import Footprint
with runtime.SplitLlama.launch(runtime.load_checkpoint("tiny"), "shared-memory") as llama:
    before = llama.forward([1, 2, 3])
    held = Footprint.of(), Footprint.of(llama.worker_info["pid"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, 16 << 20))
    for _ in range(3):
        try:
            llama.forward([[1] * 1024] * 4)
        except ArenaError as error:
            assert "wanted" in str(error) and "available" in str(error), error
        else:
            raise SystemExit("it was given")
    assert llama.forward([1, 2, 3]).equal(before)
    assert (Footprint.of(), Footprint.of(llama.worker_info["pid"])) == held
"""
    run_script(code)


def test_a_worker_that_cannot_map_the_arena_is_an_arena_error_and_it_lives_on() -> None:
    with SplitLlama.launch(tiny(), "shared-memory", threads=1) as llama:
        before = llama.forward(PROMPT)
        process = psutil.Process(worker_pid(llama))
        limit = process.memory_info().vms + (16 << 20)
        process.rlimit(psutil.RLIMIT_AS, (limit, psutil.RLIM_INFINITY))
        with pytest.raises(ArenaError, match="worker could not map"):
            llama.forward([1] * 2048)
        process.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        assert llama.forward(PROMPT).equal(before)


# Arguments --------------------------------------------------------------------------------------------
