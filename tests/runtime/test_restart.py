"""``SplitLlama.launch(restart=True)``: a worker that has ended is replaced, and nothing else is repeated."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from runtime import SplitLlama
from runtime.errors import InputError, WorkerDied, WorkerError, WorkerRefused, WorkerTimeout
from tests.runtime.peers import (
    Ending,
    Footprint,
    forward_until_it_fails,
    kill_when_computing,
    leftovers,
    tiny,
    worker_pid,
)

PROMPT = list(range(20))
LONG_PROMPT = [[1] * 1024] * 2


def killed(llama: SplitLlama) -> None:
    ending = Ending(worker_pid(llama))
    os.kill(worker_pid(llama), signal.SIGKILL)
    assert ending.comes_within(5)


@pytest.mark.parametrize("stage", ["baseline", "fused"])
def test_a_forward_whose_worker_is_killed_is_computed_by_another(stage: str, folder: Path) -> None:
    before = Footprint.of()
    with SplitLlama.launch(tiny(), stage, threads=1, restart=True) as llama:
        right = llama.forward(LONG_PROMPT)
        held, first = Footprint.of(), worker_pid(llama)
        killer = kill_when_computing(first)
        while not llama.last_trace.restarts:
            assert llama.forward(LONG_PROMPT).equal(right)
        killer.join()
        assert not psutil.pid_exists(first)
        second = worker_pid(llama)
        assert (llama.last_trace.restarts, second != first) == (1, True)
        calls = llama.last_trace.totals()["rpc_count"]

        killed(llama)  # also where it had nothing to do
        assert llama.forward(LONG_PROMPT).equal(right)
        assert (llama.last_trace.restarts, worker_pid(llama) != second) == (1, True)
        assert llama.forward(LONG_PROMPT).equal(right)
        assert llama.last_trace.restarts == 0
        assert llama.last_trace.totals()["rpc_count"] == calls
        assert Footprint.of() == held
    assert Footprint.of() == before
    assert leftovers(folder) == []


@contextmanager
def killing_every_worker() -> Iterator[list[int]]:
    """Kill each that is started, until the context ends."""
    enough, killed = threading.Event(), []

    def kill() -> None:
        while not enough.wait(0.01):
            for process in psutil.Process().children(recursive=True):
                if process.pid not in killed:
                    killed.append(process.pid)
                    process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        enough.set()
        thread.join()


def test_a_worker_that_ends_again_in_the_same_forward_is_an_error_and_the_next_forward_works(
    folder: Path,
) -> None:
    with SplitLlama.launch(tiny(), "shared-memory", threads=1, restart=True) as llama:
        right = llama.forward(PROMPT)
        before = Footprint.of()
        with killing_every_worker() as killed, pytest.raises(WorkerDied):
            forward_until_it_fails(llama, [PROMPT])
        # Two workers, each with its watch, and perhaps one of them seen as it was forked; a third would make six.
        assert len(killed) < 6
        assert llama.forward(PROMPT).equal(right)
        assert Footprint.of() == before
    assert leftovers(folder) == []


def misled(llama: SplitLlama) -> None:
    llama._rpc._session += 1


def stopped(llama: SplitLlama) -> None:
    os.kill(worker_pid(llama), signal.SIGSTOP)


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(misled, WorkerRefused), (stopped, WorkerTimeout)],
    ids=["misled", "stopped"],
)
def test_what_is_refused_or_late_is_not_repeated(
    trouble: Callable[[SplitLlama], None], error: type[WorkerError]
) -> None:
    with SplitLlama.launch(tiny(), "fused", threads=1, timeout_s=0.5, restart=True) as llama:
        first = worker_pid(llama)
        trouble(llama)
        with pytest.raises(error):
            llama.forward(PROMPT)
        with pytest.raises(WorkerError, match="earlier call failed"):
            llama.forward(PROMPT)
        assert worker_pid(llama) == first


def test_a_context_is_lost_with_its_worker() -> None:
    with (
        SplitLlama.launch(tiny(), "fused", threads=1, restart=True) as llama,
        llama.open_context() as context,
    ):
        context.append(PROMPT)
        killed(llama)
        with pytest.raises(WorkerDied):
            context.append(PROMPT)
        llama.forward(PROMPT)
        for use in (lambda: context.append(PROMPT), lambda: context.trim(1)):
            with pytest.raises(WorkerError, match="context: its worker has ended"):
                use()
        with llama.open_context() as another:
            another.append(PROMPT)


def test_a_worker_at_an_address_is_not_ours_to_start() -> None:
    with pytest.raises(InputError, match=r"^restart: "):
        SplitLlama.launch(tiny(), "fused", endpoint="unix:///nowhere", restart=True)
