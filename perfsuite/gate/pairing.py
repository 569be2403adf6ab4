"""Blocks of a subject and of its yardstick, measured in turn in one fresh process after another.

The rules, fixed before any result is seen: a round is a block of each, in drawn order; what ran before a
block has emptied the caches, so its first run is discarded; a round's value is the log-ratio of the blocks'
medians; the first round of each process is warm-up and discarded; rounds in which the machine was disturbed
(see ``disturbance``) are counted and left out.

Blocks, because a run right after one of the other process is up to a quarter slower than one after its own
kind: in pairs of single runs the drawn order itself was the largest noise. Short ones, because on a machine
with neighbours everything is slower for some hundredths of a second now and then: what they spoil is to be
few of many rounds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from math import log, nan
from statistics import median

from perfsuite.gate.disturbance import DISTURBED_SHARE, Watch
from perfsuite.llama.measuring import collector_paused

RUNS = 3  # that count, per block
ROUNDS = 10  # kept, per process


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


_Block = list[Timed]
Open = Callable[[], AbstractContextManager[Contender]]


@dataclass(frozen=True)
class _Round:
    """One block of each."""

    subject: _Block
    yardstick: _Block
    disturbed: bool

    @property
    def log_ratio(self) -> float:
        return log(_median_s(self.subject) / _median_s(self.yardstick))


@dataclass(frozen=True)
class Replicate:
    """What one fresh process gave."""

    rounds: list[float]  # log of the subject's time over the yardstick's
    latency_s: float  # the subject's median
    phases: dict[str, float]  # median seconds of each over the yardstick's median
    disturbed: int  # rounds left out
    seconds: list[float] = field(default_factory=list)  # of the subject's runs in all quiet rounds
    yardstick: list[float] = field(default_factory=list)  # median seconds in each of ``rounds``
    known_speed: bool = True  # the baseline knows what to expect of a machine that runs as fast

    @property
    def yardstick_s(self) -> float:
        """The yardstick's median seconds, not a number without any quiet round."""
        return median(self.yardstick) if self.yardstick else nan


class Pairing:
    """Measures ``processes`` fresh ones: call ``prepare`` and ``run`` in turn ``runs`` times, then ``finish``.

    In this form the loop can be pytest-benchmark's (``setup`` and ``target`` of its pedantic mode), and
    its statistics are those of ``run``. A context manager, which ends every process.
    """

    def __init__(
        self, subject: Open, yardstick: Open, *, processes: int, rounds: int = ROUNDS, seed: int = 0
    ) -> None:
        self.runs = processes * (1 + rounds) * RUNS
        self._per_process = (1 + rounds) * RUNS
        self._open_subject, self._open_yardstick = subject, yardstick
        self._random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self._collector = ExitStack()
        self._process = ExitStack()
        self._replicates: list[Replicate] = []
        self._rounds: list[_Round] = []
        self._subject_block: _Block = []
        self._yardstick_block: _Block = []
        self._number = 0

    def __enter__(self) -> Pairing:
        self._collector.enter_context(collector_paused())
        return self

    def __exit__(self, *error: object) -> None:
        self._process.close()
        self._collector.close()

    @property
    def left(self) -> int:
        """How many runs are still to be made."""
        return self.runs - self._number

    def prepare(self) -> None:
        """Get ready for the next ``run``: whatever is due before it, a fresh process or a yardstick's block."""
        self._complete()
        if self._number % self._per_process == 0:
            self._next_process()
        if self._number % RUNS == 0:
            if self._random.random() < 0.5:
                self._yardstick_block = _block(self._yardstick)
            self._subject.run()  # discarded

    def run(self) -> None:
        """Run the subject once."""
        self._subject_block.append(self._subject.run())
        self._number += 1

    def _complete(self) -> None:
        """Finish the round whose last subject's run is done."""
        if len(self._subject_block) < RUNS:
            return
        yardstick = self._yardstick_block or _block(self._yardstick)
        disturbed = self._watch.foreign_share() > DISTURBED_SHARE
        self._rounds.append(_Round(self._subject_block, yardstick, disturbed))
        self._subject_block, self._yardstick_block = [], []
        if self._number % self._per_process == 0:
            self._replicates.append(_replicate(self._rounds[1:]))

    def _next_process(self) -> None:
        self._process.close()
        with ExitStack() as stack:
            self._yardstick = stack.enter_context(self._open_yardstick())
            self._subject = stack.enter_context(self._open_subject())
            self._process = stack.pop_all()
        self._watch = Watch((*self._subject.pids, *self._yardstick.pids))
        self._rounds = []

    def finish(self) -> list[Replicate]:
        """Return one replicate per process."""
        self._complete()
        return self._replicates


def _block(contender: Contender) -> _Block:
    contender.run()  # discarded
    return [contender.run() for _ in range(RUNS)]


def _median_s(block: _Block) -> float:
    return median(run.seconds for run in block)


def _replicate(rounds: list[_Round]) -> Replicate:
    quiet = [one for one in rounds if not one.disturbed]
    # Figures for people are of all rounds where none was quiet; the verdict then has too few samples.
    shown = quiet or rounds
    subject = [run for one in shown for run in one.subject]
    yardstick = median(run.seconds for one in shown for run in one.yardstick)
    return Replicate(
        rounds=[one.log_ratio for one in quiet],
        latency_s=_median_s(subject),
        phases={
            phase: median(run.phases[phase] for run in subject) / yardstick
            for phase in subject[0].phases
        },
        disturbed=len(rounds) - len(quiet),
        seconds=[run.seconds for one in quiet for run in one.subject],
        yardstick=[_median_s(one.yardstick) for one in quiet],
    )


def measure(subject: Open, yardstick: Open, *, processes: int, seed: int) -> list[Replicate]:
    """Return a replicate for each of ``processes`` fresh ones."""
    with Pairing(subject, yardstick, processes=processes, seed=seed) as pairing:
        run_all(pairing)
        return pairing.finish()


def run_all(pairing: Pairing) -> None:
    """Make the runs that are left."""
    while pairing.left:
        pairing.prepare()
        pairing.run()
