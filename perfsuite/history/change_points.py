"""Where a series changed its level, although its noise remembers.

The logarithms of the values are taken for a piecewise constant level with noise of an autoregressive
kind around it. Levels are fitted by penalised least squares, exactly (PELT: Killick, Fearnhead and
Eckley, JASA 107, 2012), and each change costs ``PENALTY`` times the noise's *long-run* variance,
sd^2 (1 + phi) / (1 - phi), phi being its correlation from one run to the next: with the plain variance
correlated noise passes for changes (Bai and Perron, Econometrica 66, 1998; Romano et al., JASA 117,
2022). Since the fit is the cheapest one, every change that is kept stands at least sqrt(PENALTY) =
3.9 standard errors from its neighbours. ``docs/history.md`` has the measured rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import ruptures
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from perfsuite.statistics import Estimate

PENALTY = 15.0
MIN_SEGMENT = 4  # runs on one level: fewer are a bad day
MIN_RUNS = 12  # fewer say too little of the noise
_PHI_AT_FIRST = 0.3
_PHI_LIMIT = 0.8  # beyond it, noise and change are one
_MAX_PASSES = 6
_LEAST_VARIANCE = 1e-12  # without any noise the rounding of numbers would pass for changes
_OUTLIER = 3.5  # standard deviations from the running median
_WINDOW = 7  # runs, of the running median
_BAI_95 = 11.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChangePoint:
    """A change of level before run ``index``, the first on the new level.

    ``earliest`` to ``latest`` hold the true index with 95 % confidence. ``size`` is the new level over
    the old one, 1.08 for 8 % slower, with its 95 % interval.
    """

    index: int
    earliest: int
    latest: int
    size: Estimate


@dataclass(frozen=True)
class Trend:
    """A series explained: ``levels`` has one per run, in the values' unit; ``phi`` is the noise's."""

    changes: tuple[ChangePoint, ...]
    levels: tuple[float, ...]
    spread: float  # standard deviation of the noise, as a share of the level
    phi: float


def detect(values: ArrayLike) -> Trend:
    """Explain ``values`` (runs,), positive, oldest first. Fewer than MIN_RUNS have one level.

    Raises ValueError for none, and for values that are not positive and finite.
    """
    raw = np.asarray(values, dtype=np.float64)
    if raw.ndim != 1 or not len(raw) or not np.isfinite(raw).all() or (raw <= 0).any():
        raise ValueError("a series needs positive, finite values")
    logs = _without_outliers(np.log(raw))
    ends = _confirmed(logs, _segment(logs)) if len(logs) >= MIN_RUNS else [len(logs)]
    variance, phi = _noise(logs, ends)
    starts = [0, *ends]
    means = [float(logs[start:end].mean()) for start, end in pairwise(starts)]
    changes = [
        _change(starts[place : place + 3], means[place : place + 2], _long_run(variance, phi))
        for place in range(len(ends) - 1)
    ]
    levels = np.repeat(np.exp(means), np.diff(starts))
    return Trend(tuple(changes), tuple(levels.tolist()), math.sqrt(variance), phi)


def _segment(logs: Array) -> list[int]:
    """Where segments end, the last one included. The noise depends on them, so they are found in turns."""
    # Differences over three runs hardly see a change of level, nor much of the correlation.
    median_square = float(np.median((logs[3:] - logs[:-3]) ** 2)) / stats.chi2.median(1)
    variance = median_square / 2 / (1 - _PHI_AT_FIRST**3)
    ends = _cheapest(logs, _long_run(variance, _PHI_AT_FIRST))
    seen = [ends]
    for _ in range(_MAX_PASSES):
        variance, phi = _noise(logs, ends)
        ends = _cheapest(logs, _long_run(variance, phi))
        if ends in seen:  # settled; of a cycle, the fewest changes
            return min(seen[seen.index(ends) :], key=len)
        seen.append(ends)
    return min(seen[-2:], key=len)


def _confirmed(logs: Array, ends: Sequence[int]) -> list[int]:
    """Leave out changes at either end of the series that fewer than MIN_SEGMENT runs show.

    No segment may be shorter than that, so that a level of two runs is fitted together with two of the
    level beside it, and neither its place nor its size would be right. Where it begins is told by the
    cheapest split without that limit.
    """
    confirmed = list(ends)
    while len(confirmed) > 1:
        start = confirmed[-3] if len(confirmed) > 2 else 0
        if len(logs) - _cheapest_split(logs, start, len(logs)) >= MIN_SEGMENT:
            break
        del confirmed[-2]
    while len(confirmed) > 1:
        if _cheapest_split(logs, 0, confirmed[1]) >= MIN_SEGMENT:
            break
        del confirmed[0]
    return confirmed


def _cheapest_split(logs: Array, start: int, end: int) -> int:
    """Return the index at which two levels fit ``logs[start:end]`` best."""
    part = logs[start:end] - logs[start:end].mean()
    before = np.arange(1, len(part))
    # With the mean taken away, the squares that a split explains (between its two sums).
    explained = np.cumsum(part)[:-1] ** 2 * (1 / before + 1 / (len(part) - before))
    return start + 1 + int(np.argmax(explained))


def _cheapest(logs: Array, long_run_variance: float) -> list[int]:
    fit = ruptures.KernelCPD(kernel="linear", min_size=MIN_SEGMENT).fit(logs[:, np.newaxis])
    return [int(end) for end in fit.predict(pen=PENALTY * long_run_variance)]


def _noise(logs: Array, ends: Sequence[int]) -> tuple[float, float]:
    """Variance around the segments' means, and correlation from run to run."""
    residuals = logs.copy()
    for start, end in pairwise([0, *ends]):
        residuals[start:end] -= residuals[start:end].mean()
    squares = float(residuals @ residuals)
    if squares == 0 or len(logs) <= len(ends):
        return 0.0, 0.0
    phi = float(residuals[1:] @ residuals[:-1]) / squares
    # Each fitted mean takes some of the correlation with it (Kendall, Biometrika 41, 1954).
    phi += (1 + 3 * phi) * len(ends) / len(logs)
    return squares / (len(logs) - len(ends)), min(max(phi, 0.0), _PHI_LIMIT)


def _long_run(variance: float, phi: float) -> float:
    return max(variance, _LEAST_VARIANCE) * (1 + phi) / (1 - phi)


def _change(bounds: Sequence[int], means: Sequence[float], long_run_variance: float) -> ChangePoint:
    """The change between two segments: ``bounds`` are its ends and the index between them."""
    start, index, end = bounds
    step = means[1] - means[0]
    error = math.sqrt(long_run_variance * (1 / (index - start) + 1 / (end - index)))
    reach = float(stats.norm.isf(0.025)) * error
    # Bai, Review of Economics and Statistics 79 (1997): how far the index may be off.
    off = math.floor(_BAI_95 * long_run_variance / step**2) + 1 if step else end - start
    return ChangePoint(
        index=index,
        earliest=max(start + 1, index - off),
        latest=min(end - 1, index + off),
        size=Estimate(math.exp(step), math.exp(step - reach), math.exp(step + reach)),
    )


def _without_outliers(logs: Array) -> Array:
    """Runs far from the median of their neighbours, drawn in to the limit: one bad run is no change."""
    if len(logs) < MIN_RUNS:
        return logs
    middle = ndimage.median_filter(logs, size=_WINDOW, mode="nearest")
    distance = logs - middle
    limit = _OUTLIER * float(stats.norm.isf(0.25)) ** -1 * float(np.median(np.abs(distance)))
    return np.asarray(middle + np.clip(distance, -limit, limit), dtype=np.float64)
