"""Robust estimates with intervals, as pure functions over arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 9_999


@dataclass(frozen=True)
class Estimate:
    """A value and its interval, in the unit of the samples it was made from."""

    value: float
    low: float
    high: float


def median_confidence(count: int, confidence: float = CONFIDENCE) -> float:
    """The confidence that ``count`` samples can give to an interval of their median.

    The widest distribution-free interval, from the least to the greatest sample, misses the
    median when all samples fall on one side of it: with probability 2 ** (1 - count).
    """
    return min(confidence, 1.0 - 2.0 ** (1 - count))


def median(samples: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """The median of ``samples`` (count,) with a distribution-free interval.

    The interval lies between two order statistics (Conover, Practical Nonparametric Statistics,
    section 3.2). Too few samples for ``confidence`` give the widest interval there is, from the
    least to the greatest; ``median_confidence`` says what that is worth.

    Raises ValueError for no sample or one that is not finite.
    """
    values = _checked(samples)
    ordered = np.sort(values)
    rank = max(1, _least_below(len(ordered), (1 - confidence) / 2))
    return Estimate(float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[-rank]))


def paired_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Estimate:
    """exp(median(log(numerators / denominators))), with a percentile bootstrap over the pairs.

    Both are (count,), positive, and element i of each was measured in the same round, so that a
    drift of the machine cancels. One pair alone gives an interval of no width.

    Raises ValueError for no sample, unequal counts, or a sample that is not positive and finite.
    """
    above, below = _checked(numerators), _checked(denominators)
    if len(above) != len(below):
        raise ValueError(f"{len(above)} numerators, {len(below)} denominators: not paired")
    if (above <= 0).any() or (below <= 0).any():
        raise ValueError("a ratio needs positive samples")
    logs = np.log(above) - np.log(below)
    value = np.median(logs)
    low = high = value
    if len(logs) > 1:
        # By percentiles: other bootstrap intervals need a smooth statistic, which a median is not.
        drawn = np.random.default_rng(seed).integers(0, len(logs), (resamples, len(logs)))
        tail = (1 - confidence) / 2
        ends = np.quantile(np.median(logs[drawn], axis=1), (tail, 1 - tail))
        low, high = min(ends[0], value), max(ends[1], value)
    return Estimate(float(np.exp(value)), float(np.exp(low)), float(np.exp(high)))


def shares(parts: Sequence[float], cells: int) -> list[int]:
    """``cells`` whole cells handed out in proportion to ``parts``, by largest remainder.

    Returns one count per part; they sum to ``cells``, or to 0 when the parts do.
    """
    total = sum(parts)
    if total <= 0:
        return [0] * len(parts)
    exact = [part / total * cells for part in parts]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: counts[i] - exact[i])
    for index in by_remainder[: cells - sum(counts)]:
        counts[index] += 1
    return counts


def _least_below(count: int, level: float) -> int:
    """The quantile at ``level`` of how many of ``count`` samples fall below the median of their distribution.

    That number is binomial, whatever the distribution.
    """
    wanted = Fraction(level) * 2**count
    ways = total = 1
    below = 0
    while total < wanted:
        ways = ways * (count - below) // (below + 1)
        below += 1
        total += ways
    return below


def _checked(samples: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("samples must be a non-empty, finite, one-dimensional array")
    return values
