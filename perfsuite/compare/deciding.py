"""What a comparison judges: head is paired with BASE itself, so that unchanged is zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from perfsuite.gate import deciding
from perfsuite.gate.deciding import Judgement, Replicates
from perfsuite.gate.pairing import Timed


@dataclass(frozen=True)
class Rules:
    """How is sampled: ``processes`` fresh ones a look, at most ``looks``; ``margin`` as a share."""

    margin: float = 0.05
    processes: int = 8
    rounds: int = 5
    looks: int = deciding.MAX_LOOKS
    time_limit_s: float = 120.0  # per stage, after which no further look begins


def judge_change(replicates: Replicates, *, margin: float, looks: int) -> Judgement:
    """Return the verdict on log-ratios of head over BASE, a row per pair of processes.

    The other side of the gate's question has no spread: as many processes, each of them exactly zero.
    """
    unchanged = [[0.0] * deciding.MIN_ROUNDS] * len(replicates)
    return deciding.judge(replicates, unchanged, margin=margin, looks=looks)


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
