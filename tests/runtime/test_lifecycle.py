"""How the two processes end, whichever ends first and however: nothing is left, and the next launch works."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from runtime import STAGES, SplitLlama
from runtime.errors import (
    ArenaError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)
from tests.runtime.peers import (
    Ending,
    Footprint,
    busy_s,
    forward_until_it_fails,
    leftovers,
    mappings,
    run_script,
    small_checkpoint,
    tiny,
    wait_until,
    worker_pid,
)

PROMPT = list(range(20))
# Long enough to be killed in the middle of, on any machine: tens of milliseconds a call.
LONG_PROMPT = [[1] * 1024] * 4
GONE_S = 2.0


def kill_when_computing(pid: int) -> threading.Thread:
    """Kill a worker as soon as it has computed for some hundredths of a second."""
    before = busy_s(pid)

    def kill() -> None:
        wait_until(lambda: busy_s(pid) > before + 0.02)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


# The worker ends first --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
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


def launch_and_kill(delay_s: float) -> None:
    """One life: launch, compute, be killed in the middle of a call, be cleared away."""
    with SplitLlama.launch(tiny(), "shared-memory", threads=1) as llama:
        logits = llama.forward(PROMPT)
        assert torch.isfinite(logits).all()
        ending = Ending(worker_pid(llama))
        killer = threading.Timer(delay_s, os.kill, (worker_pid(llama), signal.SIGKILL))
        started = time.monotonic()
        killer.start()
        with pytest.raises(WorkerDied):
            forward_until_it_fails(llama, LONG_PROMPT[:1])
        assert time.monotonic() - started < delay_s + GONE_S
        assert ending.comes_within(GONE_S)


def many_lives(times: int) -> None:
    delays = [random.Random(seed).uniform(0, 0.1) for seed in range(times)]
    gc.collect()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(launch_and_kill, delays[:2]))
        before = Footprint.of(), mappings(os.getpid())
        list(pool.map(launch_and_kill, delays))
        after = Footprint.of(), mappings(os.getpid())
    assert after[0] == before[0]
    assert after[1] - before[1] < 20  # heaps and stacks; an arena a life would be more
    with SplitLlama.launch(tiny(), "shared-memory") as llama:
        llama.forward(PROMPT)


@pytest.mark.slow
def test_workers_killed_in_a_row_leave_nothing_and_the_next_launch_works(folder: Path) -> None:
    many_lives(16)
    assert leftovers(folder) == []


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_worker_that_hangs_is_a_timeout_and_close_ends_it(stage: str, folder: Path) -> None:
    before = Footprint.of()
    llama = SplitLlama.launch(tiny(), stage, timeout_s=1.0)
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


@pytest.mark.parametrize("stage", ["baseline", "shared-memory", "bf16"])
def test_two_hundred_forwards_of_changing_length_make_neither_process_grow(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Free memory goes back to the system at once, here by asking: else what is counted is chance.
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    give_back = ctypes.CDLL(None).malloc_trim
    lengths = itertools.cycle((1, 1024, 3, 777, 64, 512, 2, 1000, 31, 256))
    with SplitLlama.launch(small_checkpoint(tmp_path), stage, threads=1) as llama:
        pids = os.getpid(), worker_pid(llama)

        def after_forwards(times: int) -> list[tuple[Footprint, int, int]]:
            """What each process holds."""
            for length in itertools.islice(lengths, times):
                llama.forward([length % 64] * length)
            held = [Footprint.of(pid) for pid in pids]
            give_back(0)
            memory = [psutil.Process(pid).memory_info().rss for pid in pids]
            return list(zip(held, map(mappings, pids), memory, strict=True))

        before = after_forwards(40)
        for (held, maps, memory), (held_then, maps_then, memory_then) in zip(
            after_forwards(200), before, strict=True
        ):
            assert held == held_then
            assert maps - maps_then <= 4
            assert memory - memory_then < 4 << 20


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
    llama.forward([1] * 2048)
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
            llama.forward([1] * 2048)
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
