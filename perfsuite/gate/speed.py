"""Like with like: what is measured is held against what was recorded while the machine ran as fast.

Processors change their clock, and on a shared host what a neighbour leaves of a core. A yardstick takes out
what slows both alike; but system calls and copies follow the clock less than products do, so that the ratio
of a stage with many calls rises by a tenth where the yardstick becomes a fifth faster. So each process
is known by its speed, the seconds that its yardstick took, and a stored process counts the more the nearer its
speed was. That is a kernel regression of the log-ratio on the log of the yardstick's seconds (Nadaraya, On
Estimating Regression, 1964; Watson, Smooth Regression Analysis, 1964). The slope over all speeds is taken out
before (Siegel, Robust Regression Using Repeated Medians, 1982), because near the fastest and the slowest
stored process neighbours lie on one side. A process of a speed that the baseline does not know is left out.

While a neighbour uses the other half of a core everything takes half as long again, and by how much a ratio
moves hangs on what the neighbour does: such processes are not recorded, so that no baseline knows their
speed. None of these rules looks at the subject.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from perfsuite.gate import deciding
from perfsuite.gate.deciding import Judgement, Verdict

BANDWIDTH = 0.05  # of the logarithm of the yardstick's seconds: the kernel's standard deviation
NEIGHBOURS = 3.0  # stored processes of the very same speed, or more that are less near
CONTENDED = 1.3  # times the seconds of the fastest tenth: the core is shared with somebody
STEADY = 0.12  # of the logarithm of the seconds: a round is as fast as its process
ANY_SPEED_MARGIN = 0.25  # of what no change of the machine's speed explains


class Measured(Protocol):
    """One process, measured now or stored."""

    @property
    def rounds(self) -> Sequence[float]:
        """Its log-ratios."""
        ...

    @property
    def yardstick_s(self) -> float:
        """Its yardstick's seconds."""
        ...


@dataclass(frozen=True)
class Sample:
    """What was measured of one subject: for each process its log-ratios, and its yardstick's seconds."""

    rounds: Sequence[Sequence[float]]
    yardstick_s: Sequence[float]

    @classmethod
    def of(cls, processes: Sequence[Measured]) -> Sample:
        """Return what the gate sees of these processes."""
        return cls(
            [process.rounds for process in processes],
            [process.yardstick_s for process in processes],
        )

    @property
    def medians(self) -> NDArray[np.float64]:
        """The median log-ratio of each process, (processes,)."""
        return np.array([np.median(rounds) for rounds in self.rounds])

    @property
    def log_speeds(self) -> NDArray[np.float64]:
        """The logarithm of the yardstick's seconds, (processes,)."""
        return np.log(np.asarray(self.yardstick_s, dtype=np.float64))


def steady(yardstick_s: Sequence[float]) -> NDArray[np.bool_]:
    """Return in which rounds of one process the machine was as fast as in its median one, (rounds,).

    A yardstick that varies by itself is allowed three times the spread of its rounds.
    """
    logs = np.log(np.asarray(yardstick_s, dtype=np.float64))
    if not logs.size:
        return np.zeros(0, dtype=np.bool_)
    apart = np.abs(logs - np.median(logs))
    spread = stats.median_abs_deviation(logs, scale="normal")
    return np.asarray(apart <= max(STEADY, 3 * spread))


def uncontended(yardstick_s: Sequence[float]) -> NDArray[np.bool_]:
    """Return in which processes the machine had its cores for itself, (processes,)."""
    seconds = np.asarray(yardstick_s, dtype=np.float64)
    if not seconds.size:
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(seconds <= CONTENDED * np.quantile(seconds, 0.1))


def nearness(current: Sample, stored: Sample) -> NDArray[np.float64]:
    """Return the weight of each stored process for each current one, (current, stored): 1 at equal speed."""
    apart = current.log_speeds[:, None] - stored.log_speeds
    return np.asarray(np.exp(-0.5 * (apart / BANDWIDTH) ** 2))


def known(current: Sample, stored: Sample) -> NDArray[np.bool_]:
    """Return which processes ran at a speed that is stored, (current,)."""
    return np.asarray(nearness(current, stored).sum(axis=1) >= NEIGHBOURS)


def noise(stored: Sample) -> NDArray[np.float64]:
    """Return by how much each process's median differs from what the others of its speed say, (processes,)."""
    level = stored.medians - _slope(stored) * stored.log_speeds
    weights = nearness(stored, stored)
    np.fill_diagonal(weights, 0.0)
    weights += deciding.LEAST_WEIGHT
    return np.asarray(level - deciding.trimmed_mean(level, weights))


def judge(
    current: Sample,
    stored: Sample,
    *,
    margin: float,
    confidence: float = deciding.CONFIDENCE,
    looks: int = deciding.MAX_LOOKS,
    resamples: int = deciding.RESAMPLES,
    seed: int = 0,
) -> Judgement:
    """Return the verdict on the processes of known speed; beyond ``ANY_SPEED_MARGIN`` on all of them."""

    def verdict(
        sample: Sample, margin: float, slope: float, weights: NDArray[np.float64] | None
    ) -> Judgement:
        return deciding.judge(
            _levelled(sample, slope),
            _levelled(stored, slope),
            margin=margin,
            nearness=weights,
            confidence=confidence,
            looks=looks,
            resamples=resamples,
            seed=seed,
        )

    alike = _chosen(current, known(current, stored))
    judgement = verdict(alike, margin, _slope(stored), nearness(alike, stored))
    if judgement.verdict is Verdict.INCONCLUSIVE and margin < ANY_SPEED_MARGIN:
        # Without the slope, which is known over the stored speeds alone.
        widely = verdict(current, ANY_SPEED_MARGIN, 0.0, None)
        if widely.verdict is Verdict.REGRESSION:
            return replace(widely, reason=f"{widely.reason} for any speed of the machine")
    return judgement


def _slope(stored: Sample) -> float:
    if np.ptp(stored.log_speeds) < BANDWIDTH:  # they have one speed
        return 0.0
    return float(stats.siegelslopes(stored.medians, stored.log_speeds).slope)


def _levelled(sample: Sample, slope: float) -> list[list[float]]:
    return [
        [value - slope * math.log(seconds) for value in rounds]
        for rounds, seconds in zip(sample.rounds, sample.yardstick_s, strict=True)
    ]


def _chosen(sample: Sample, which: NDArray[np.bool_]) -> Sample:
    return Sample(
        list(itertools.compress(sample.rounds, which)),
        list(itertools.compress(sample.yardstick_s, which)),
    )
