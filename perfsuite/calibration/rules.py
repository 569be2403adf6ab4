"""Rules that decide whether a run is slower than another: the gate's, and those that people use today.

Each sees the same samples: those of the baseline's processes and of the run's. A rule has a statistic, which
grows with the evidence for a regression, and the threshold at which it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from perfsuite.gate import deciding, speed
from perfsuite.gate.deciding import Judgement, Verdict
from perfsuite.gate.looks import decide
from perfsuite.gate.speed import Sample

LOOKS = deciding.MAX_LOOKS
RESAMPLES = 500  # of each judgement's bootstrap: there are thousands of judgements


@dataclass(frozen=True)
class Process:
    """What one fresh process gave: log-ratios of its rounds, and the seconds of its runs."""

    rounds: Sequence[float]
    yardstick_s: float  # in the median of these rounds
    seconds: Sequence[float]


Processes = Sequence[Process]
Draw = Callable[[], Processes]  # another look's processes


def gate_is_red(stored: Processes, draw: Draw, *, margin: float, seed: int) -> bool:
    """Return whether the gate's rule fails."""
    baseline = Sample.of(stored)

    def judge(measured: Processes) -> Judgement:
        return speed.judge(
            Sample.of(measured),
            baseline,
            margin=margin,
            looks=LOOKS,
            resamples=RESAMPLES,
            seed=seed,
        )

    return decide(draw, judge, looks=LOOKS).judgement.verdict is Verdict.REGRESSION


Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """Red when ``statistic`` of the baseline's and the run's seconds is above ``threshold``."""

    statistic: Callable[[Seconds, Seconds], float]
    threshold: float


def _median_ratio(stored: Seconds, current: Seconds) -> float:
    return float(np.median(current) / np.median(stored))


def _least_ratio(stored: Seconds, current: Seconds) -> float:
    return float(current.min() / stored.min())


def _mean_ratio(stored: Seconds, current: Seconds) -> float:
    return float(current.mean() / stored.mean())


def _t(stored: Seconds, current: Seconds) -> float:
    return -math.log(
        max(stats.ttest_ind(current, stored, equal_var=False, alternative="greater").pvalue, 1e-300)
    )


def _u(stored: Seconds, current: Seconds) -> float:
    """Evidence of the U-test, and none where the medians differ by less than a tenth, as asv asks."""
    if _median_ratio(stored, current) < 1.1:
        return 0.0
    return -math.log(max(stats.mannwhitneyu(current, stored).pvalue, 1e-300))


RULES = MappingProxyType(
    {
        "pytest-benchmark, median:5%": Rule(_median_ratio, 1.05),
        "pytest-benchmark, min:5%": Rule(_least_ratio, 1.05),
        "t-test, p < 0.05": Rule(_t, -math.log(0.05)),
        "U-test as asv: p < 0.002, factor 1.1": Rule(_u, -math.log(0.002)),
        "alert at 200 % of the mean": Rule(_mean_ratio, 2.0),
    }
)
