"""A user's own callables as what the gate pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from perfsuite.gate.pairing import Contender, Open, Timed
from runtime.slowdown import TOTAL, Slowdown


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
