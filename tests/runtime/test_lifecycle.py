"""How the two processes end, whichever ends first and however: nothing is left, and the next launch works."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from runtime import STAGES, SplitError, SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.errors import (
    ArenaError,
    EndpointError,
    InputError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)
from tests.runtime.peers import (
    PATIENCE_S,
    Ending,
    Footprint,
    leftovers,
    mappings,
    small_checkpoint,
    tiny,
    wait_until,
)

PROMPT = list(range(20))
# Long enough to be killed in the middle of, on any machine: tens of milliseconds a call.
LONG_PROMPT = [[1] * 1024] * 4
GONE_S = 2.0


@pytest.fixture
def folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An empty temporary folder, where whatever is left behind shows. Its path is short: sockets' are."""
    tmp_path_factory.getbasetemp()  # pytest's own is made elsewhere, before
    path = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield path
    shutil.rmtree(path)


def worker_pid(llama: SplitLlama) -> int:
    pid = llama.worker_info["pid"]
    assert isinstance(pid, int)
    return pid


def watching(llama: SplitLlama) -> psutil.Process:
    """The process that watches the worker."""
    parent = psutil.Process(worker_pid(llama)).parent()
    assert parent is not None
    return parent


def busy_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def forward_until_it_fails(llama: SplitLlama, prompts: list[list[int]]) -> None:
    for _ in range(1000):
        llama.forward(prompts)


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
    try:
        SplitLlama.launch(tiny(), "baseline").close()
    except EndpointError as error:
        assert "endpoint: " in str(error)  # noqa: PT017 - either is right
    assert wait_until(lambda: Footprint.of() == before), f"{Footprint.of()} was {before}"
    assert leftovers(deep) == []


# The trusted side closes ------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_closing_ends_the_worker_and_leaves_nothing(stage: str, folder: Path) -> None:
    before = Footprint.of()
    with SplitLlama.launch(tiny(), stage) as llama:
        llama.forward(PROMPT)
        ending = Ending(worker_pid(llama))
        assert leftovers(folder) == [], "both ends have met"
    assert ending.comes_within(0)
    llama.close()
    with pytest.raises(SplitError):
        llama.forward(PROMPT)
    llama.close()
    assert Footprint.of() == before
    assert leftovers(folder) == []


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


@pytest.mark.parametrize("stage", STAGES)
def test_a_llama_that_nobody_has_any_more_is_closed(stage: str, folder: Path) -> None:
    before = Footprint.of()
    llama = SplitLlama.launch(tiny(), stage, threads=1)
    llama.forward(PROMPT)
    ending = Ending(worker_pid(llama))
    del llama  # at once: it is no part of a cycle
    assert ending.comes_within(0)
    assert Footprint.of() == before
    assert leftovers(folder) == []


def test_a_closed_llama_says_that_it_is_closed() -> None:
    llama = SplitLlama.launch(tiny(), "shared-memory", threads=1)
    llama.close()
    for use in (llama.ping, lambda: llama.forward(PROMPT)):
        with pytest.raises(WorkerError, match="this model is closed"):
            use()


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_closing_in_the_middle_of_another_threads_call_ends_that_with_an_error(
    stage: str, folder: Path
) -> None:
    before = Footprint.of()
    llama = SplitLlama.launch(tiny(), stage)
    llama.forward(PROMPT)
    busy_before = busy_s(worker_pid(llama))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(forward_until_it_fails, llama, LONG_PROMPT)
        assert wait_until(lambda: busy_s(worker_pid(llama)) > busy_before + 0.02)
        llama.close()
        with pytest.raises(WorkerError):
            running.result(PATIENCE_S)
    del running  # with the error, the frames that it came through, and their tensors
    assert Footprint.of() == before
    assert leftovers(folder) == []


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_fork_is_refused_and_does_not_disturb_its_parent(stage: str) -> None:
    code = """
import os, sys, runtime
llama = runtime.SplitLlama.launch(runtime.load_checkpoint("tiny"), sys.argv[1], threads=1)
before = llama.forward([1, 2, 3])
child = os.fork()
if child == 0:
    try:
        llama.forward([1, 2, 3])
    except runtime.SplitError as error:
        llama.close()
        del llama
        os._exit(0 if "fork" in str(error) else 3)
    os._exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert llama.forward([1, 2, 3]).equal(before)
llama.close()
"""
    run_script(code, arguments=[stage])


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


# The trusted side is ended ------------------------------------------------------------------------------

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


@pytest.mark.parametrize("stage", ["baseline", "bf16"])
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


@ENDS
def test_a_worker_that_is_still_loading_ends_with_its_parent(
    stage: str, how: signal.Signals, folder: Path
) -> None:
    with Parent(stage) as parent:
        ending = Ending(parent.loading_worker())
        parent.end(how)
        assert ending.comes_within(GONE_S)
    assert leftovers(folder) == []


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


def run_script(code: str, *before: str, arguments: Sequence[str] = ()) -> None:
    finished = subprocess.run(
        [*before, sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert finished.returncode == 0, finished.stderr


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


@pytest.mark.parametrize("name", ["timeout_s", "start_timeout_s"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 1e300, 3e6, "5", None])
def test_a_deadline_that_is_none_is_refused_before_anything_starts(
    name: str, value: float, folder: Path
) -> None:
    settings = {name: value}
    launch: Callable[..., SplitLlama] = SplitLlama.launch
    before = Footprint.of()
    with pytest.raises(InputError, match=f"^{name}: "):
        launch(tiny(), "fused", **settings)
    assert Footprint.of() == before


@pytest.mark.parametrize("threads", [0, -1, 2.5, "2", True, 2**40])
def test_a_number_of_threads_that_is_none_is_refused(threads: object) -> None:
    launch: Callable[..., SplitLlama] = SplitLlama.launch
    with pytest.raises(InputError, match=r"^threads: "):
        launch(tiny(), "fused", threads=threads)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("tiny",), "checkpoint: must be what load_checkpoint returns"),
        ((tiny(), STAGES["fused"]), "stage: "),
    ],
    ids=["a name", "a row"],
)
def test_an_argument_of_another_kind_is_refused_by_name(
    arguments: tuple[object, ...], problem: str
) -> None:
    launch: Callable[..., SplitLlama] = SplitLlama.launch
    with pytest.raises(InputError, match=problem):
        launch(*arguments)


def test_the_longest_deadline_is_a_deadline() -> None:
    for stage in ("baseline", "shared-memory"):
        with SplitLlama.launch(tiny(), stage, threads=1, timeout_s=1e6) as llama:
            llama.ping()


def test_a_python_that_does_not_know_its_program_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(WorkerError, match=r"sys\.executable"):
        SplitLlama.launch(tiny(), "shared-memory")


def forwards(llama: SplitLlama, prompts: Sequence[list[int]]) -> list[torch.Tensor]:
    return [llama.forward(prompt) for prompt in prompts]


def test_threads_that_share_a_llama_take_turns(checkpoint: Checkpoint) -> None:
    prompts = [[token] * length for token, length in ((1, 3), (2, 40), (3, 7), (4, 90))]
    with SplitLlama.launch(checkpoint, "shared-memory", threads=1) as llama:
        alone = forwards(llama, prompts)
        with ThreadPoolExecutor(4) as pool:
            together = pool.map(lambda _: forwards(llama, prompts), range(4))
        for logits in together:
            assert all(map(torch.equal, logits, alone))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return small_checkpoint(tmp_path_factory.mktemp("model"))
