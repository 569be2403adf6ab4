"""The worker ends with its parent, however that ends and whatever the worker does meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from runtime import SplitLlama
from runtime.errors import WorkerDied
from tests.runtime.peers import (
    PATIENCE_S,
    Ending,
    leftovers,
    tiny,
    wait_until,
    watching,
    worker_pid,
)

PROMPT = list(range(20))
GONE_S = 2.0


PARENT = """
import sys
from runtime import SplitLlama, load_checkpoint
stage, prompt = sys.argv[1], [[1] * 1024] * int(sys.argv[2])
with SplitLlama.launch(load_checkpoint("tiny"), stage, threads=1) as llama:
    print(llama.worker_info["pid"], flush=True)
    while prompt:
        llama.forward(prompt)
        print("computed", flush=True)
    sys.stdin.read()
"""


class Parent:
    """A trusted process to be ended, and the worker that it started."""

    def __init__(self, stage: str, batch: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, stage, str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def loading_worker(self) -> int:
        """The worker at the moment at which its process exists: a child of the one that watches it."""
        process = psutil.Process(self.process.pid)
        assert wait_until(lambda: len(process.children(recursive=True)) == 2, seconds=60)
        return int(process.children(recursive=True)[-1].pid)

    def end(self, signal_: signal.Signals) -> None:
        self.process.send_signal(signal_)
        self.process.communicate(timeout=PATIENCE_S)

    def __enter__(self) -> Parent:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


ENDS = pytest.mark.parametrize(
    ("stage", "how"),
    [
        ("baseline", signal.SIGKILL),
        ("baseline", signal.SIGTERM),
        ("shared-memory", signal.SIGKILL),
        ("shared-memory", signal.SIGINT),
    ],
    ids=str,
)


@ENDS
def test_an_idle_worker_ends_with_its_parent(stage: str, how: signal.Signals, folder: Path) -> None:
    with Parent(stage) as parent:
        ending = Ending(int(parent.line()))
        parent.end(how)
        assert ending.comes_within(GONE_S)
    assert leftovers(folder) == []


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_computing_worker_ends_with_its_killed_parent(stage: str, folder: Path) -> None:
    with Parent(stage, batch=2) as parent:
        ending = Ending(int(parent.line()))
        assert parent.line() == "computed\n"
        parent.end(signal.SIGKILL)
        assert ending.comes_within(GONE_S)
    assert leftovers(folder) == []


def test_a_stopped_worker_ends_with_its_killed_parent(folder: Path) -> None:
    """It cannot watch anything itself."""
    with Parent("shared-memory") as parent:
        pid = int(parent.line())
        ending = Ending(pid)
        os.kill(pid, signal.SIGSTOP)
        parent.end(signal.SIGKILL)
        assert ending.comes_within(GONE_S)


def test_a_worker_ends_with_the_process_that_watches_it(folder: Path) -> None:
    with SplitLlama.launch(tiny(), "shared-memory", threads=1) as llama:
        ending = Ending(worker_pid(llama))
        watching(llama).kill()
        assert ending.comes_within(GONE_S)
        with pytest.raises(WorkerDied):
            llama.forward(PROMPT)


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_ctrl_c_at_an_idle_prompt_is_no_affair_of_the_workers(stage: str) -> None:
    """A terminal sends it to every process of the foreground group."""
    with SplitLlama.launch(tiny(), stage, threads=1) as llama:
        before = llama.forward(PROMPT)
        for process in (psutil.Process(worker_pid(llama)), watching(llama)):
            process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        assert llama.forward(PROMPT).equal(before)


@pytest.mark.parametrize(
    ("stage", "how"), [("baseline", signal.SIGTERM), ("shared-memory", signal.SIGKILL)], ids=str
)
def test_a_worker_that_is_still_loading_ends_with_its_parent(
    stage: str, how: signal.Signals, folder: Path
) -> None:
    with Parent(stage) as parent:
        ending = Ending(parent.loading_worker())
        parent.end(how)
        assert ending.comes_within(GONE_S)
    assert leftovers(folder) == []
