"""From samples to a verdict, as pure functions over arrays: how the samples were made is unknown here.

A *replicate* is what one fresh process gave: the log-ratios of its rounds, each the subject's time over
the yardstick's. Rounds of one process are alike, processes differ: so the process is the unit of
replication, and the bootstrap draws processes first and rounds within them second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from perfsuite.statistics import Estimate

MIN_REPLICATES = 3  # fewer say nothing of the spread between processes
MIN_ROUNDS = 3
CONFIDENCE = 0.95
MAX_LOOKS = 3
RESAMPLES = 4_000
TRIM = 0.2  # share of the replicates that may be far off at either end without moving the location

Replicates = Sequence[Sequence[float] | NDArray[np.float64]]


class Verdict(StrEnum):
    """What the gate says of one subject."""

    REGRESSION = "regression"
    PASS = "pass"  # noqa: S105 - no password
    INCONCLUSIVE = "inconclusive"
    IMPROVED = "improved"


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on. ``change`` is a ratio, current over stored: 1.10 is 10 % slower."""

    verdict: Verdict
    change: Estimate
    margin: float  # as a share: 0.02 is 2 %
    replicates: int
    reason: str


def location(replicates: Replicates) -> float:
    """Return the trimmed mean over processes of the median over rounds."""
    return float(stats.trim_mean([np.median(rounds) for rounds in replicates], TRIM))


def change(
    current: Replicates,
    stored: Replicates,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return exp(location(current) - location(stored)) with its two-sided interval.

    A hierarchical percentile bootstrap over processes and rounds of both sides. With few processes a
    percentile interval is too short; its percentiles are moved out to where a t interval would be
    (the expanded percentile interval of Hesterberg, What Teachers Should Know About the Bootstrap,
    2015, section 4.3).

    Raises:
        ValueError: for a side with fewer than ``MIN_REPLICATES`` processes or one with fewer than
            ``MIN_ROUNDS`` rounds, and for a value that is not finite.
    """
    rng = np.random.default_rng(seed)
    sides = [_checked(current), _checked(stored)]
    level = (1 - confidence) / 2
    drawn = [_resampled(side, resamples, rng) for side in sides]
    value = location(sides[0]) - location(sides[1])
    smallest = min(len(side) for side in sides)
    reach = math.sqrt(smallest / (smallest - 1)) * stats.t.ppf(1 - level, smallest - 1)
    outer = float(stats.norm.sf(reach))
    low, high = np.quantile(drawn[0] - drawn[1], [outer, 1 - outer])
    return Estimate(
        math.exp(value), math.exp(min(float(low), value)), math.exp(max(float(high), value))
    )


def judge(
    current: Replicates,
    stored: Replicates,
    *,
    margin: float,
    confidence: float = CONFIDENCE,
    looks: int = MAX_LOOKS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Judgement:
    """Return the verdict on ``current`` against ``stored``; both hold one array per process.

    ``looks`` is how often at most the question is asked while samples arrive. For an alarm each look has
    1 - (1 - confidence) / looks: by Bonferroni's inequality the chance that any of them errs stays
    below 1 - confidence. A pass needs no such care, because it ends the looking: the one-sided bound of
    ``confidence`` must lie below the margin. ``margin`` is the share by which a subject may be slower.

    Too few samples are inconclusive, never an error and never another verdict.
    """
    counts = [sum(np.size(rounds) >= MIN_ROUNDS for rounds in side) for side in (current, stored)]
    if min(counts) < MIN_REPLICATES:
        which = "measured" if counts[0] < MIN_REPLICATES else "stored"
        reason = f"{min(counts)} processes {which}, {MIN_REPLICATES} are the least"
        unknown = Estimate(math.nan, 0.0, math.inf)
        return Judgement(Verdict.INCONCLUSIVE, unknown, margin, counts[0], reason)
    usable = [
        [rounds for rounds in side if np.size(rounds) >= MIN_ROUNDS] for side in (current, stored)
    ]
    each = 1 - (1 - confidence) / looks
    estimate = change(usable[0], usable[1], confidence=each, resamples=resamples, seed=seed)
    # Two-sided, so that its upper end is the one-sided bound.
    bound = change(
        usable[0], usable[1], confidence=2 * confidence - 1, resamples=resamples, seed=seed
    ).high
    if estimate.low > 1 + margin:
        verdict, reason = Verdict.REGRESSION, "the interval lies above the margin"
    elif estimate.high < 1 / (1 + margin):
        verdict, reason = Verdict.IMPROVED, "the interval lies below the margin"
    elif bound < 1 + margin:
        verdict, reason = Verdict.PASS, f"below the margin with {confidence:.0%} confidence"
    else:
        verdict, reason = Verdict.INCONCLUSIVE, "the interval reaches across the margin"
    return Judgement(verdict, estimate, margin, counts[0], reason)


def _resampled(
    replicates: Sequence[NDArray[np.float64]], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return ``resamples`` locations, each of as many processes and rounds as there are, drawn anew."""
    count = len(replicates)
    # First the rounds: as many medians of each process as there are resamples; then the processes.
    medians = np.stack(
        [
            np.median(rounds[rng.integers(len(rounds), size=(resamples, len(rounds)))], axis=1)
            for rounds in replicates
        ]
    )
    drawn = rng.integers(count, size=(resamples, count))
    medians = medians[drawn, rng.integers(resamples, size=(resamples, count))]
    return np.asarray(stats.trim_mean(medians, TRIM, axis=1), dtype=np.float64)


def _checked(replicates: Replicates) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(rounds, dtype=np.float64) for rounds in replicates]
    if len(arrays) < MIN_REPLICATES:
        raise ValueError(f"{len(arrays)} processes; at least {MIN_REPLICATES} are needed")
    for rounds in arrays:
        if rounds.ndim != 1 or len(rounds) < MIN_ROUNDS or not np.isfinite(rounds).all():
            raise ValueError(f"a process needs at least {MIN_ROUNDS} rounds, all of them finite")
    return arrays
