"""Pairs of a subject and its yardstick, measured back to back in one fresh process after another.

The rules, fixed before any result is seen: the first round of each process is warm-up and discarded; in
each pair the order is drawn; a round's value is the median of its pairs' log-ratios; rounds in which the
machine was disturbed (see ``disturbance``) are counted and left out; nothing else is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from math import log
from statistics import median

from perfsuite.gate.disturbance import DISTURBED_SHARE, Watch
from perfsuite.measuring import collector_paused

PAIRS_PER_ROUND = 10
ROUNDS = 8  # kept, per process


@dataclass(frozen=True)
class Timed:
    """One run: its seconds, and of which phases, where somebody traced them."""

    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """What is run, and the processes that it runs in beside this one."""

    run: Callable[[], Timed]
    pids: tuple[int, ...] = ()


_Pair = tuple[Timed, Timed]
_Round = tuple[list[_Pair], bool]  # its pairs, and whether it was disturbed
Open = Callable[[], AbstractContextManager[Contender]]


@dataclass(frozen=True)
class Replicate:
    """What one fresh process gave."""

    rounds: list[float]  # log of the subject's time over the yardstick's
    latency_s: float  # the subject's median
    phases: dict[str, float]  # median seconds of each over the yardstick's median
    disturbed: int  # rounds left out


class Pairing:
    """Measures ``processes`` fresh ones: call ``prepare`` and ``run`` in turn ``runs`` times, then ``finish``.

    In this form the loop can be pytest-benchmark's (``setup`` and ``target`` of its pedantic mode), and
    its statistics are those of ``run``. A context manager, which ends every process.
    """

    def __init__(
        self, subject: Open, yardstick: Open, *, processes: int, rounds: int = ROUNDS, seed: int = 0
    ) -> None:
        self.runs = processes * (1 + rounds) * PAIRS_PER_ROUND
        self._per_process = (1 + rounds) * PAIRS_PER_ROUND
        self._open_subject, self._open_yardstick = subject, yardstick
        self._random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self._collector = ExitStack()
        self._process = ExitStack()
        self._replicates: list[Replicate] = []
        self._rounds: list[_Round] = []
        self._pairs: list[_Pair] = []
        self._run: Timed | None = None
        self._before: Timed | None = None
        self._number = 0

    def __enter__(self) -> Pairing:
        self._collector.enter_context(collector_paused())
        return self

    def __exit__(self, *error: object) -> None:
        self._process.close()
        self._collector.close()

    def prepare(self) -> None:
        """Get ready for the next ``run``: a fresh process where it is due, or the yardstick's turn."""
        self._complete()
        if self._number % self._per_process == 0:
            self._next_process()
        self._before = None
        if self._random.random() < 0.5:
            self._before = self._yardstick.run()

    def run(self) -> None:
        """Run the subject once."""
        self._run = self._subject.run()

    def _complete(self) -> None:
        """Finish the pair that the last ``run`` began."""
        if self._run is None:
            return
        yardstick = self._before or self._yardstick.run()
        self._pairs.append((self._run, yardstick))
        self._run = None
        self._number += 1
        if self._number % PAIRS_PER_ROUND == 0:
            foreign = self._watch.foreign_share()
            self._rounds.append((self._pairs, foreign > DISTURBED_SHARE))
            self._pairs = []
        if self._number % self._per_process == 0:
            self._replicates.append(_replicate(self._rounds[1:]))

    def _next_process(self) -> None:
        self._process.close()
        with ExitStack() as stack:
            self._yardstick = stack.enter_context(self._open_yardstick())
            self._subject = stack.enter_context(self._open_subject())
            self._process = stack.pop_all()
        self._watch = Watch((*self._subject.pids, *self._yardstick.pids))
        self._pairs, self._rounds = [], []

    def finish(self) -> list[Replicate]:
        """Return one replicate per process."""
        self._complete()
        return self._replicates


def _replicate(rounds: list[_Round]) -> Replicate:
    quiet = [pairs for pairs, disturbed in rounds if not disturbed]
    # Figures for people are of all rounds where none was quiet; the verdict then has too few samples.
    shown = [pair for pairs in (quiet or [pairs for pairs, _ in rounds]) for pair in pairs]
    yardstick = median(other.seconds for _, other in shown)
    return Replicate(
        rounds=[
            median(log(run.seconds / other.seconds) for run, other in pairs) for pairs in quiet
        ],
        latency_s=median(run.seconds for run, _ in shown),
        phases={
            phase: median(run.phases[phase] for run, _ in shown) / yardstick
            for phase in shown[0][0].phases
        },
        disturbed=len(rounds) - len(quiet),
    )


def measure(subject: Open, yardstick: Open, *, processes: int, seed: int) -> list[Replicate]:
    """Return a replicate for each of ``processes`` fresh ones."""
    with Pairing(subject, yardstick, processes=processes, seed=seed) as pairing:
        for _ in range(pairing.runs):
            pairing.prepare()
            pairing.run()
        return pairing.finish()
