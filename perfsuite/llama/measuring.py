"""Interleaved rounds: benchmarks measured side by side, so that a drift hits all of them alike.

The rule, the same for every benchmark: the warm-up rounds are discarded, and every sample after
them is kept. Nothing is dropped as an outlier; the statistics are robust instead.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from perfsuite.llama.neighbours import Neighbours

WARMUP_ROUNDS = 1
# OpenMP threads spin for some milliseconds after a parallel region. Without a pause the next
# benchmark would share its cores with what the last one left spinning.
SETTLE_S = 0.02

Sample = TypeVar("Sample")


def interleave(
    benchmarks: Mapping[str, Callable[[], Sample]],
    rounds: int,
    *,
    seed: int = 0,
    on_run: Callable[[str, int], None] | None = None,
    neighbours: Neighbours | None = None,
) -> dict[str, list[Sample]]:
    """Run every benchmark once per round, each round in an order drawn from ``seed``.

    ``on_run(name, round)`` is called before each run; warm-up rounds are numbered below 0.
    ``neighbours`` watches every run after them.
    Returns per benchmark its ``rounds`` samples: sample i of all benchmarks is of one round.
    """
    order = list(benchmarks)
    shuffle = random.Random(seed).shuffle  # noqa: S311 - an order, not a secret
    samples: dict[str, list[Sample]] = {name: [] for name in benchmarks}
    for number in range(-WARMUP_ROUNDS, rounds):
        shuffle(order)
        for name in order:
            if on_run is not None:
                on_run(name, number)
            time.sleep(SETTLE_S)
            if neighbours is not None:
                neighbours.begin()
            with collector_paused():
                sample = benchmarks[name]()
            if number >= 0:
                if neighbours is not None:
                    neighbours.end(name)
                samples[name].append(sample)
    return samples


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect garbage now, and not while the block runs.

    What survives is then exempt from collections: walking it before every sample would empty the caches.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
