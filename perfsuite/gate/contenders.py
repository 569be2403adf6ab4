"""The stages and the unsplit model as what the gate pairs: each opens a fresh process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import torch

from perfsuite.gate.pairing import Contender, Open, Timed
from perfsuite.results import PHASES
from perfsuite.unsplit import Unsplit
from runtime import SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.slowdown import TOTAL, Slowdown


def stage_contender(
    checkpoint: Checkpoint,
    stage: str,
    input_ids: torch.Tensor,
    *,
    device: str,
    threads: int,
    slowdown: Mapping[str, float] | None = None,
) -> Open:
    """Return what opens a fresh worker of ``stage``, with its phases."""

    @contextmanager
    def opened() -> Iterator[Contender]:
        with SplitLlama.launch(
            checkpoint, stage=stage, device=device, threads=threads, slowdown=slowdown
        ) as llama:

            def run() -> Timed:
                started = time.perf_counter()
                llama.forward(input_ids)
                seconds = time.perf_counter() - started
                totals = dict(llama.last_trace.totals())
                return Timed(seconds, {phase: float(totals[f"{phase}_s"]) for phase in PHASES})  # type: ignore[arg-type]

            yield Contender(run, (int(llama.worker_info["pid"]),))

    return opened


def unsplit_contender(
    checkpoint: Checkpoint, dtype: str, input_ids: torch.Tensor, *, device: str, threads: int
) -> Open:
    """Return what opens the unsplit model in a fresh process; its first run waits until it is loaded."""

    @contextmanager
    def opened() -> Iterator[Contender]:
        with Unsplit(checkpoint.source, dtype, device=device, threads=threads) as unsplit:
            yield Contender(lambda: Timed(unsplit.forward(input_ids).seconds), (unsplit.pid,))

    return opened


class Fleet:
    """Processes that start side by side, because starting them is most of their cost.

    Each ``opener`` hands them out one after the other, again from the first when another subject asks. One
    that has had them all gets fresh ones: what is peculiar to one process must not return in every look.
    A context manager, which ends them.
    """

    def __init__(self, open_one: Open, count: int, *, passes: int = 1) -> None:
        """``count`` processes, each handed ``passes`` times to one subject before it is replaced."""
        self._open_one, self._count, self._most = open_one, count, count * passes
        self._stack = ExitStack()
        self._running: list[Contender] = []

    def opener(self) -> Open:
        """Return what gives one subject the next process."""
        numbers = itertools.count()

        @contextmanager
        def opened() -> Iterator[Contender]:
            number = next(numbers)
            if not self._running or (number and number % self._most == 0):
                self._renew()
            yield self._running[number % self._count]

        return opened

    def _renew(self) -> None:
        self._running = []
        self._stack.close()

        def start(_: int) -> Contender:
            with ExitStack() as stack:
                contender = stack.enter_context(self._open_one())
                contender.run()  # nothing is measured before the last of them has run once
                self._stack.push(stack.pop_all())
                return contender

        with ThreadPoolExecutor(self._count) as pool:
            self._running = list(pool.map(start, range(self._count)))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._running = []


def callable_contender(
    function: Callable[[], object], slowdown: Mapping[str, float] | None = None
) -> Open:
    """Return what times any callable in this process."""
    slower = Slowdown(slowdown)

    @contextmanager
    def opened() -> Iterator[Contender]:
        def run() -> Timed:
            started = time.perf_counter()
            function()
            slower.stretch(TOTAL, time.perf_counter() - started)
            return Timed(time.perf_counter() - started)

        yield Contender(run)

    return opened


@contextmanager
def compute_threads(threads: int) -> Iterator[None]:
    """Compute with ``threads`` threads in this process while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
