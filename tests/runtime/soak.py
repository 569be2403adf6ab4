"""Random faults, and long lives. ``python -m tests.runtime.soak``; test_lifecycle.py has the short form.

Whatever ends, stops or interrupts either process, at any moment: a typed error within the deadline, right results
before and after it, and nothing that is left.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import multiprocessing
import multiprocessing.util
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from runtime import STAGES, SplitError, SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint
from runtime.errors import WorkerDied, WorkerError, WorkerTimeout
from runtime.parent_watch import GRACE_S
from runtime.transports.registry import TRANSPORTS
from tests.runtime.peers import (
    MODEL,
    PATIENCE_S,
    Ending,
    Footprint,
    RealWorker,
    free_port,
    mappings,
    small_checkpoint,
    tiny,
    wait_until,
)

DEADLINE_S = 1.0
MARGIN_S = 0.5
"""After its deadline, or for what needs none after its cause, an error comes within this."""

PROMPT = [[1] * 256] * 2  # some milliseconds a call
MARK = "SPLIT_LLAMA_SOAK"
"""In the environment of whatever a parent starts, by which it is found when that has ended."""

_LATEST_S = 0.15  # after the forwards have begun, that a fault comes
_STARTING_S = 6.0  # what a parent needs to launch, about


@dataclass
class Suffered:
    """What happened: by kind of fault, the seconds by which each error was later than it was due."""

    late_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, late_s: float) -> None:
        """One more fault, whose error came ``late_s`` after the moment at which it was due."""
        self.late_s.setdefault(kind, []).append(late_s)


class Faults:
    """Llamas that suffer one fault after another."""

    def __init__(self, seed: int, folder: Path, stages: Sequence[str] = (*STAGES,)) -> None:
        """``folder`` is the temporary one, in which nothing may be left in the end."""
        self.chance = random.Random(seed)
        self._stages = stages
        self.suffered = Suffered()
        self._right: dict[str, torch.Tensor] = {}
        self._started = ExitStack()
        self._workers: dict[str, RealWorker] = {}
        self._folder = folder
        # The server of processes outlives these faults: not in the folder that is to be empty then.
        before, tempfile.tempdir = tempfile.tempdir, str(folder.parent)
        multiprocessing.util.get_temp_dir()
        tempfile.tempdir = before
        self._parents = multiprocessing.get_context("forkserver")
        self._parents.set_forkserver_preload(["runtime", "tests.runtime.peers"])

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def one(self, *, cheap: bool = False) -> None:
        """Suffer one fault of any kind; a cheap one needs no new process."""
        kinds = {self.of_a_connected_worker: 8, self.of_a_launched_worker: 2, self.of_a_parent: 1}
        if cheap:
            self.of_a_connected_worker()
        else:
            self.chance.choices([*kinds], [*kinds.values()])[0]()

    # A worker that was started by hand, and outlives its clients

    def of_a_connected_worker(self) -> None:
        """Stop it, let it go on, or interrupt its client; the same worker serves the next one."""
        stage = self.chance.choice(self._stages)
        worker = self._workers.get(stage)
        if worker is None:
            scheme = TRANSPORTS[STAGES[stage].transport].scheme
            place = f"127.0.0.1:{free_port()}" if scheme == "tcp" else f"{self._folder}/{stage}"
            # Its worker is killed at the end, and nobody who is killed takes his address along.
            self._started.callback(Path(place).unlink, missing_ok=True)
            worker = RealWorker(stage, f"{scheme}://{place}")
            self._workers[stage] = self._started.enter_context(worker)
            worker.launch().close()
        pid = worker.process.pid
        kind = self.chance.choice(("stop", "pause", "Ctrl-C"))
        before = Footprint.of()
        with SplitLlama.launch(
            tiny(), stage, endpoint=worker.endpoint, timeout_s=PATIENCE_S
        ) as llama:
            self._check(llama)
            self._suffer(llama, kind, pid)
        assert worker.process.poll() is None
        assert Footprint.of() == before

    def of_a_launched_worker(self) -> None:
        """Kill it, or the process that watches it, or stop it for ever, and close."""
        stage = self.chance.choice(self._stages)
        kind = self.chance.choice(
            ("kill", "kill of the watch", "stop for ever", "Ctrl-C of the worker")
        )
        before = Footprint.of()
        with SplitLlama.launch(tiny(), stage, threads=1) as llama:
            self._check(llama)
            pid = llama.worker_info["pid"]
            ending, watch = Ending(pid), psutil.Process(pid).parent()
            assert watch is not None
            self._suffer(llama, kind, watch.pid if kind == "kill of the watch" else pid)
        assert ending.comes_within(GRACE_S)
        assert Footprint.of() == before

    def _check(self, llama: SplitLlama) -> None:
        logits = llama.forward(PROMPT)
        right = self._right.setdefault(llama.stage.name, logits)
        assert torch.equal(logits, right)

    def _suffer(self, llama: SplitLlama, kind: str, pid: int) -> None:
        """Let the fault come in the middle of forwards, and judge how they end."""
        fault = _FAULTS[kind]
        struck: list[float] = []
        enough = threading.Event()

        def strike() -> None:
            struck.append(time.monotonic())
            os.kill(os.getpid() if fault.of_this_side else pid, fault.signal)
            if fault.error is None:
                time.sleep(DEADLINE_S / 4)
                os.kill(pid, signal.SIGCONT)
                enough.set()

        striking = threading.Timer(self.chance.uniform(0, _LATEST_S), strike)
        llama._channel.set_timeout(DEADLINE_S)
        striking.start()
        try:
            error = _forwarded_until(llama, enough)
            ended = time.monotonic()
        finally:
            striking.join()
            if kind == "stop":
                os.kill(pid, signal.SIGCONT)
        llama._channel.set_timeout(PATIENCE_S)
        if fault.error is None:
            assert error is None, error
            self._check(llama)
            self.suffered.add(kind, 0.0)
            return
        assert type(error) is fault.error, repr(error)
        self.suffered.add(kind, ended - struck[0] - fault.due_s)
        # A call was struck, and no other is made; or the moment between two calls.
        with contextlib.suppress(WorkerError):
            self._check(llama)
            assert kind == "Ctrl-C"

    # A trusted process that is ended, with all that it started

    def of_a_parent(self) -> None:
        """End, interrupt or stop a trusted process at any moment, its start among them."""
        stage = self.chance.choice(self._stages)
        kind = self.chance.choice(("SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP"))
        mark = f"{os.getpid()}-{time.monotonic_ns()}"
        computed = self._parents.Value("Q", 0)
        process = self._parents.Process(target=_parent, args=(stage, mark, computed))
        process.start()
        assert process.pid is not None
        moment_s = self.chance.uniform(0, _STARTING_S)
        wait_until(lambda: not process.is_alive(), moment_s)
        assert process.is_alive()
        os.kill(process.pid, signal.Signals[kind])
        if kind == "SIGSTOP":
            time.sleep(0.2)
            os.kill(process.pid, signal.SIGCONT)
            before = computed.value
            assert wait_until(lambda: computed.value > before + 2, 60), "does not go on"
            os.kill(process.pid, signal.SIGKILL)
        struck = time.monotonic()
        assert wait_until(lambda: not _marked(mark), PATIENCE_S), "something is left of a parent"
        self.suffered.add(f"{kind} of the parent", time.monotonic() - struck)
        process.join(PATIENCE_S)
        process.close()


@dataclass(frozen=True)
class _Fault:
    signal: signal.Signals
    error: type[BaseException] | None
    of_this_side: bool = False
    due_s: float = 0.0


_FAULTS: Mapping[str, _Fault] = {
    "kill": _Fault(signal.SIGKILL, WorkerDied),
    "kill of the watch": _Fault(signal.SIGKILL, WorkerDied),
    "stop": _Fault(signal.SIGSTOP, WorkerTimeout, due_s=DEADLINE_S),
    "stop for ever": _Fault(signal.SIGSTOP, WorkerTimeout, due_s=DEADLINE_S),
    "pause": _Fault(signal.SIGSTOP, None),
    "Ctrl-C": _Fault(signal.SIGINT, KeyboardInterrupt, of_this_side=True),
    "Ctrl-C of the worker": _Fault(signal.SIGINT, None),  # it is its parent's affair
}


def _forwarded_until(llama: SplitLlama, enough: threading.Event) -> BaseException | None:
    """Run forwards until one fails, or it is enough; return the error without what it holds."""
    try:
        while not enough.is_set():
            llama.forward(PROMPT)
    except (WorkerError, KeyboardInterrupt) as error:
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return error
    return None


def _parent(stage: str, mark: str, computed: Any) -> None:
    os.environ[MARK] = mark
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - of what an interrupt says
    with SplitLlama.launch(load_checkpoint(MODEL), stage, threads=1) as llama:
        while True:
            llama.forward(PROMPT)
            computed.value += 1


def _marked(mark: str) -> list[int]:
    """What was started by the parent of that mark; it itself has it too late to show."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process.pid)
    return found


# Long lives -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What both processes hold, in counts and bytes."""

    footprints: tuple[Footprint, ...]
    mappings: tuple[int, ...]
    memory: tuple[int, ...]

    @classmethod
    def of(cls, *pids: int) -> Held:
        """Free memory is first given back: else what is counted is chance."""
        footprints = tuple(Footprint.of(pid) for pid in pids)
        ctypes.CDLL(None).malloc_trim(0)
        memory = tuple(psutil.Process(pid).memory_info().rss for pid in pids)
        return cls(footprints, tuple(map(mappings, pids)), memory)

    def assert_flat(
        self, before: Held, *, more_mappings: int = 4, more_bytes: int = 4 << 20
    ) -> None:
        """Raise AssertionError if there is more of anything than there was."""
        assert self.footprints == before.footprints
        for now, then in zip(self.mappings, before.mappings, strict=True):
            assert now - then <= more_mappings, f"{then} mappings became {now}"
        for now, then in zip(self.memory, before.memory, strict=True):
            assert now - then < more_bytes, f"{then:,} bytes became {now:,}"


def forwards(checkpoint: Checkpoint, stage: str, times: int) -> tuple[Held, Held]:
    """Run forwards of changing length; return what was held after the first ones, and in the end.

    ``times`` is rounded up to whole rounds of the lengths: both are counted after the same, whose memory is kept.
    """
    lengths = (1, 1024, 3, 777, 64, 512, 2, 1000, 31, 256)
    with SplitLlama.launch(checkpoint, stage, threads=1) as llama:
        pids = os.getpid(), int(llama.worker_info["pid"])

        def after(count: int) -> Held:
            for _ in range(-(-count // len(lengths))):
                for length in lengths:
                    llama.forward([length % 64] * length)
            return Held.of(*pids)

        return after(40), after(times)


def launches(times: int) -> tuple[Held, Held]:
    """Launch, compute, and let go without closing; return what this process held early, and in the end."""
    stages = itertools.cycle(STAGES)

    def after(count: int) -> Held:
        for stage in itertools.islice(stages, count):
            SplitLlama.launch(tiny(), stage, threads=1).forward([1, 2, 3])
        return Held.of(os.getpid())

    return after(len(STAGES)), after(times)


# The command ------------------------------------------------------------------------------------------


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in which everything temporary is made; nothing may be left in it."""
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = None
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before


def main() -> int:
    """Run what is asked for and print figures; an AssertionError is a defect."""
    parser = argparse.ArgumentParser(prog="python -m tests.runtime.soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--forwards", type=int, default=10_000, help="over all stages")
    parser.add_argument("--launches", type=int, default=500, help="each let go without closing")
    parser.add_argument("--cheap", action="store_true", help="only faults that need no new process")
    parser.add_argument("--seconds", type=float, default=3600.0, help="the most for the faults")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.forwards:
        with temporary_folder() as folder:
            for stage in STAGES:
                times = -(-arguments.forwards // len(STAGES))
                before, after = forwards(small_checkpoint(folder / "model"), stage, times)
                after.assert_flat(before)
                _tell(f"{times} forwards, {stage}", before, after)
    if arguments.launches:
        with temporary_folder() as folder:
            before, after = launches(arguments.launches)
            after.assert_flat(before, more_mappings=20, more_bytes=16 << 20)
            _tell(f"{arguments.launches} launches let go", before, after)
            assert [*folder.iterdir()] == []
    if arguments.faults:
        with temporary_folder() as folder, Faults(arguments.seed, folder) as faults:
            until = time.monotonic() + arguments.seconds
            wrong = 0
            for count in range(arguments.faults):
                if time.monotonic() > until:
                    break
                try:
                    faults.one(cheap=arguments.cheap)
                except (AssertionError, SplitError) as error:
                    print(f"WRONG: {error!r}", flush=True)
                    traceback.print_exception(error)
                    wrong += 1
                if count % 50 == 49:
                    _tell_faults(faults.suffered)
            _tell_faults(faults.suffered)
            left = [path.name for path in folder.iterdir() if path.name not in STAGES]
            print(f"{wrong} of them wrong", flush=True)
            print("left in the temporary folder:", ", ".join(left) or "nothing", flush=True)
        return min(wrong, 1)
    return 0


def _tell(what: str, before: Held, after: Held) -> None:
    print(
        f"{what}: memory {[f'{size / 1e6:.1f}' for size in before.memory]} MB became "
        f"{[f'{size / 1e6:.1f}' for size in after.memory]}, mappings {before.mappings} {after.mappings}, "
        f"the rest {'as before' if before.footprints == after.footprints else 'MORE'}",
        flush=True,
    )


def _tell_faults(suffered: Suffered) -> None:
    every = suffered.late_s
    print(
        f"{sum(map(len, every.values()))} faults; ms until the error, after it was due", flush=True
    )
    for kind, late_s in sorted(every.items()):
        beyond = sum(late > MARGIN_S for late in late_s)
        print(
            f"  {kind:22} {len(late_s):5}  median {statistics.median(late_s) * 1e3:7.1f}  "
            f"latest {max(late_s) * 1e3:7.1f}  beyond {MARGIN_S} s: {beyond}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
