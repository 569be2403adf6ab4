"""A straight line through timings: alpha + beta x bytes, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsuite.statistics import CONFIDENCE, Estimate

_RESAMPLES = 999


@dataclass(frozen=True)
class LineFit:
    """``alpha`` in seconds, ``beta`` in seconds per byte; ``worst`` is the largest relative error of the line.

    The error is against the median of the samples of each size.
    """

    alpha: Estimate
    beta: Estimate
    worst: float


def fit_line(sizes: ArrayLike, seconds: ArrayLike, *, seed: int = 0) -> LineFit:
    """Fit a line by least squares of relative errors, so that small sizes count as much as large ones.

    The intervals are percentiles of a bootstrap over the samples of each size (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993). Raises ValueError for fewer than two sizes, or unequal counts.
    """
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    if x.shape != y.shape or len(np.unique(x)) < 2 or not (y > 0).all():
        raise ValueError("a line needs two sizes, and positive seconds for each of them")
    groups = [np.flatnonzero(x == size) for size in np.unique(x)]
    random = np.random.default_rng(seed)
    line = _least_squares(x, y)
    drawn = np.array(
        [
            _least_squares(x[chosen], y[chosen])
            for chosen in (
                np.concatenate([random.choice(group, len(group)) for group in groups])
                for _ in range(_RESAMPLES)
            )
        ]
    )
    edges = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(drawn, [edges, 100 - edges], axis=0)
    medians = np.array([np.median(y[group]) for group in groups])
    at = np.array([x[group[0]] for group in groups])
    alpha, beta = (_estimate(line, low, high, index) for index in range(2))
    return LineFit(
        alpha,
        beta,
        worst=float(np.abs((line[0] + line[1] * at) / medians - 1).max()),
    )


def _estimate(
    line: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], index: int
) -> Estimate:
    value = float(line[index])
    return Estimate(value, min(value, float(low[index])), max(value, float(high[index])))


def _least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    scale = np.array([1.0, 1.0 / x.max()])  # columns of like size, for the sake of the arithmetic
    solution: NDArray[np.float64] = np.linalg.lstsq(design * scale, np.ones_like(y), rcond=None)[0]
    scaled: NDArray[np.float64] = solution * scale
    return scaled
