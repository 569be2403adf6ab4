"""One stage of two revisions: measure, judge, measure more where it is needed, confirm every red.

Head is paired with BASE itself, so the log-ratios of the pairs are the change, and unchanged is zero: the
gate's own judgement, against a side that is known exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from perfsuite.gate import deciding
from perfsuite.gate.deciding import Judgement, Replicates, Verdict
from perfsuite.gate.pairing import Replicate, Timed


@dataclass(frozen=True)
class Rules:
    """How is sampled: ``processes`` fresh ones a look, at most ``looks``; ``margin`` as a share."""

    margin: float = 0.05
    processes: int = 8
    rounds: int = 5
    looks: int = deciding.MAX_LOOKS
    time_limit_s: float = 120.0  # per stage, after which no further look begins


@dataclass(frozen=True)
class Decision:
    """The verdict on one stage, what it rests on, and every replicate."""

    judgement: Judgement
    replicates: list[Replicate]
    looks: int


def judge_change(replicates: Replicates, *, margin: float, looks: int) -> Judgement:
    """Return the verdict on log-ratios of head over BASE, a row per pair of processes.

    The other side of the gate's question has no spread: as many processes, each of them exactly zero.
    """
    unchanged = [[0.0] * deciding.MIN_ROUNDS] * len(replicates)
    return deciding.judge(replicates, unchanged, margin=margin, looks=looks)


def decide(measure: Callable[[int, int], list[Replicate]], rules: Rules) -> Decision:
    """Judge what ``measure(look, processes)`` returns, and call it again while the verdict is open.

    A red verdict is measured once more on half as many fresh processes; it stays red only if these alone
    lie above the margin as well.
    """
    deadline = time.monotonic() + rules.time_limit_s
    replicates = measure(0, rules.processes)
    looks = 1

    def judged() -> Judgement:
        return judge_change(_rounds(replicates), margin=rules.margin, looks=rules.looks)

    judgement = judged()
    while (
        judgement.verdict is Verdict.INCONCLUSIVE
        and looks < rules.looks
        and time.monotonic() < deadline
    ):
        replicates += measure(looks, rules.processes)
        looks += 1
        judgement = judged()
    if judgement.verdict is Verdict.REGRESSION:
        fresh = measure(looks, max(deciding.MIN_REPLICATES, rules.processes // 2))
        replicates += fresh
        looks += 1
        judgement = judged()
        alone = _rounds(fresh)
        again = bool(alone) and deciding.location(alone) > math.log1p(rules.margin)
        if not again or judgement.verdict is not Verdict.REGRESSION:
            judgement = _unconfirmed(judgement)
    return Decision(judgement, replicates, looks)


def median_phases(runs: Sequence[Timed]) -> dict[str, float]:
    """Return the median seconds of each phase that every run has."""
    names = set(runs[0].phases).intersection(*(run.phases for run in runs))
    return {
        name: median(run.phases[name] for run in runs) for name in runs[0].phases if name in names
    }


def moved_most(
    head: Mapping[str, float], base: Mapping[str, float], *, slower: bool
) -> tuple[str, float] | None:
    """Return the phase that became most slower, or most faster, and its seconds; None if none did."""
    moves = {phase: head[phase] - base[phase] for phase in head if phase in base}
    sign = 1 if slower else -1
    phase = max(moves, key=lambda name: sign * moves[name], default=None)
    return None if phase is None or sign * moves[phase] <= 0 else (phase, moves[phase])


def _rounds(replicates: Sequence[Replicate]) -> list[list[float]]:
    return [replicate.rounds for replicate in replicates if replicate.rounds]


def _unconfirmed(judgement: Judgement) -> Judgement:
    return Judgement(
        Verdict.INCONCLUSIVE,
        judgement.change,
        judgement.margin,
        judgement.replicates,
        "a red verdict that fresh processes did not confirm",
    )
