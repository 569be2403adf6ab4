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
SUITE_ERROR = (
    0.05  # chance that any red of a suite is wrong where all its subjects lie at the margin
)
FEWEST_SUBJECTS = 4
MAX_LOOKS = 3
RESAMPLES = 4_000
TRIM = 0.2  # share of the replicates that may be far off at either end without moving the location
_AT_ONCE = 1 << 20  # numbers in memory
LEAST_WEIGHT = 1e-6  # so that a resample without any near replicate has a location

Array = NDArray[np.float64]
Replicates = Sequence[Sequence[float] | Array]


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


def alarm_confidence(subjects: int) -> float:
    """Return the confidence that an alarm needs where so many subjects are judged, at least that of four.

    A subject at its margin is red if its interval lies above it, by chance in half of 1 - confidence, and fresh
    processes alone lie above it as well, which half of them do. By Bonferroni's inequality all of
    them together err with at most ``SUITE_ERROR``.
    """
    return 1 - 4 * SUITE_ERROR / max(subjects, FEWEST_SUBJECTS)


def trimmed_mean(values: Array, weights: Array | None = None) -> Array:
    """Return the mean of what lies between the quantiles ``TRIM`` and 1 - ``TRIM``, (...,).

    ``values`` and their ``weights`` (default: equal) are (..., count) and broadcast. A value at a quantile
    counts by the part of its weight that lies inside, so that the mean moves smoothly with every weight.
    """
    if weights is None:
        weights = np.ones_like(values)
    order = np.argsort(values, axis=-1)
    ordered = np.take_along_axis(values, order, axis=-1)
    aligned = np.broadcast_arrays(weights, order)
    each = np.take_along_axis(aligned[0], aligned[1], axis=-1)
    ends = np.cumsum(each, axis=-1)
    share, total = each / ends[..., -1:], ends / ends[..., -1:]
    inside = np.clip(total, TRIM, 1 - TRIM) - np.clip(total - share, TRIM, 1 - TRIM)
    return np.asarray((ordered * inside).sum(axis=-1) / (1 - 2 * TRIM))


def location(replicates: Replicates) -> float:
    """Return the trimmed mean over processes of the median over rounds."""
    return float(trimmed_mean(np.array([np.median(rounds) for rounds in replicates])))


@dataclass(frozen=True)
class Bootstrap:
    """A change as the logarithm of a ratio, what it was in each resample, and how many processes it rests on."""

    value: float
    resampled: Array
    processes: int  # of the smaller side

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """Return the ratio with its two-sided percentile interval.

        With few processes a percentile interval is too short; its percentiles are moved out to where a t
        interval would be (the expanded percentile interval of Hesterberg, What Teachers Should Know
        About the Bootstrap, 2015, section 4.3).
        """
        few = self.processes
        quantile = stats.t.ppf((1 + confidence) / 2, few - 1)
        outer = float(stats.norm.sf(math.sqrt(few / (few - 1)) * quantile))
        low, high = (float(end) for end in np.quantile(self.resampled, [outer, 1 - outer]))
        return Estimate(
            math.exp(self.value),
            math.exp(min(low, self.value)),
            math.exp(max(high, self.value)),
        )


def change(
    current: Replicates,
    stored: Replicates,
    *,
    nearness: Array | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Return by which factor ``current`` takes longer than ``stored``.

    Each current process is held against the trimmed mean of the stored ones, in which they count by
    ``nearness``, (current, stored), at least 0; without it they count alike. The factor is exp of the
    differences' trimmed mean; if they count alike, of location(current) - location(stored). The bootstrap is
    hierarchical, over processes and rounds of both sides.

    Raises:
        ValueError: for a side with fewer than ``MIN_REPLICATES`` processes or one with fewer than
            ``MIN_ROUNDS`` rounds, and for a value that is not finite.
    """
    rng = np.random.default_rng(seed)
    sides = [_checked(current), _checked(stored)]
    if nearness is None:
        nearness = np.ones((len(sides[0]), len(sides[1])))
    medians = [np.array([[np.median(rounds) for rounds in side]]) for side in sides]
    every = [np.arange(len(side))[None] for side in sides]
    value = float(_difference(medians, every, nearness)[0])
    drawn = [rng.integers(len(side), size=(resamples, len(side))) for side in sides]
    medians = [
        _resampled_medians(side, numbers, rng) for side, numbers in zip(sides, drawn, strict=True)
    ]
    at_once = max(1, _AT_ONCE // nearness.size)
    parts = [slice(start, start + at_once) for start in range(0, resamples, at_once)]
    differences = [
        _difference([side[part] for side in medians], [side[part] for side in drawn], nearness)
        for part in parts
    ]
    return Bootstrap(value, np.concatenate(differences), min(map(len, sides)))


def judge(
    current: Replicates,
    stored: Replicates,
    *,
    margin: float,
    nearness: Array | None = None,
    confidence: float = CONFIDENCE,
    looks: int = MAX_LOOKS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Judgement:
    """Return the verdict on ``current`` against ``stored``; both hold one array per process.

    ``nearness`` is that of ``change``.

    ``looks`` is how often at most the question is asked while samples arrive. For an alarm each look has
    1 - (1 - confidence) / looks: by Bonferroni's inequality the chance that any of them errs stays
    below 1 - confidence. A pass needs no such care, because it ends the looking: the one-sided bound of
    ``CONFIDENCE`` must lie below the margin. ``margin`` is the share by which a subject may be slower.

    Too few samples are inconclusive, never an error and never another verdict.
    """
    counts = [sum(np.size(rounds) >= MIN_ROUNDS for rounds in side) for side in (current, stored)]
    if min(counts) < MIN_REPLICATES:
        which = "measured" if counts[0] < MIN_REPLICATES else "stored"
        reason = f"{min(counts)} processes {which}, {MIN_REPLICATES} are the least"
        unknown = Estimate(math.nan, 0.0, math.inf)
        return Judgement(Verdict.INCONCLUSIVE, unknown, margin, counts[0], reason)
    numbers = [
        [number for number, rounds in enumerate(side) if np.size(rounds) >= MIN_ROUNDS]
        for side in (current, stored)
    ]
    if nearness is not None:
        nearness = nearness[np.ix_(*numbers)]

    found = change(
        [current[number] for number in numbers[0]],
        [stored[number] for number in numbers[1]],
        nearness=nearness,
        resamples=resamples,
        seed=seed,
    )
    estimate = found.estimate(1 - (1 - confidence) / looks)
    bound = found.estimate(
        2 * CONFIDENCE - 1
    ).high  # the upper end of two sides is one side's bound
    if estimate.low > 1 + margin:
        verdict, reason = Verdict.REGRESSION, "the interval lies above the margin"
    elif estimate.high < 1 / (1 + margin):
        verdict, reason = Verdict.IMPROVED, "the interval lies below the margin"
    elif bound < 1 + margin:
        verdict, reason = Verdict.PASS, f"below the margin with {CONFIDENCE:.0%} confidence"
    else:
        verdict, reason = Verdict.INCONCLUSIVE, "the interval reaches across the margin"
    return Judgement(verdict, estimate, margin, counts[0], reason)


def _resampled_medians(
    replicates: Sequence[Array], numbers: NDArray[np.int64], rng: np.random.Generator
) -> Array:
    """Return the medians, of rounds drawn anew, of the drawn processes ``numbers``, (resamples, count)."""
    resamples = len(numbers)
    medians = np.stack(
        [
            np.median(rounds[rng.integers(len(rounds), size=(resamples, len(rounds)))], axis=1)
            for rounds in replicates
        ]
    )
    return np.asarray(medians[numbers, rng.integers(resamples, size=numbers.shape)])


def _difference(
    medians: Sequence[Array], numbers: Sequence[NDArray[np.int64]], nearness: Array
) -> Array:
    """Return the location of current medians over what the stored ones say of each, (resamples,).

    Of both sides: medians and which processes they are of, both (resamples, count).
    """
    current, stored = medians
    weights = nearness[numbers[0][:, :, None], numbers[1][:, None, :]] + LEAST_WEIGHT
    expected = trimmed_mean(stored[:, None, :], weights)
    return trimmed_mean(current - expected)


def _checked(replicates: Replicates) -> list[Array]:
    arrays = [np.asarray(rounds, dtype=np.float64) for rounds in replicates]
    if len(arrays) < MIN_REPLICATES:
        raise ValueError(f"{len(arrays)} processes; at least {MIN_REPLICATES} are needed")
    for rounds in arrays:
        if rounds.ndim != 1 or len(rounds) < MIN_ROUNDS or not np.isfinite(rounds).all():
            raise ValueError(f"a process needs at least {MIN_ROUNDS} rounds, all of them finite")
    return arrays
