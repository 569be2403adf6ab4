"""Like with like: what is measured is held against what was recorded while the machine ran as fast.

Processors change their clock, and on a shared host what a neighbour leaves of a core. A reference takes out
what slows both alike; but system calls and copies follow the clock less than products do, so that the ratio
of a subject with many calls rises by a tenth where the reference becomes a fifth faster. So each process is
known by its speed, the seconds that its reference took, and three rules condition on it; none of them looks
at the subject's time.

- A line: the slope of the log-ratio over the log of the reference's seconds is taken out (repeated medians:
  Siegel, Robust Regression Using Repeated Medians, Biometrika 69, 1982).
- A kernel: a stored process counts for a current one by a Gaussian weight of the distance of their speeds
  (kernel regression: Nadaraya, On Estimating Regression, 1964; Watson, Smooth Regression Analysis, 1964). It
  corrects what is no line; the line corrects what the kernel leaves where all neighbours lie on one side.
- Common support: a current process of a speed that hardly any stored one had is left out.

While a neighbour uses the other half of a core everything takes half as long again, and by how much a ratio
moves hangs on what the neighbour does: such processes are not recorded, so that no baseline knows their speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BANDWIDTH = 0.05  # of the logarithm of the reference's seconds: the kernel's standard deviation
SUPPORT = 3.0  # stored processes of the very same speed, or more that are less near
CONTENDED = 1.3  # times the seconds of the fastest tenth: the core is shared with somebody
STEADY = 0.12  # of the logarithm of the seconds: a round is as fast as its process
SLOPE_SD = 0.3  # of slopes in general, before any is measured: one of 0.3 is not unusual
_EFFICIENCY = 0.6  # of repeated medians beside least squares, in small samples of normal noise
_MAD = 1.4826  # standard deviations of normal noise in a median absolute deviation

Array = NDArray[np.float64]
Seconds = Sequence[float] | Array


@dataclass(frozen=True)
class Slope:
    """Of the log-ratio over the log of the reference's seconds, with its standard deviation."""

    value: float
    sd: float


def steady(reference_s: Seconds) -> NDArray[np.bool_]:
    """Return in which rounds of one process the machine was as fast as in its median one, (rounds,).

    A reference that varies by itself is allowed three times the spread of its rounds.
    """
    logs = np.log(np.asarray(reference_s, dtype=np.float64))
    if not logs.size:
        return np.zeros(0, dtype=np.bool_)
    apart = np.abs(logs - np.median(logs))
    return np.asarray(apart <= max(STEADY, 3 * _MAD * float(np.median(apart))))


def uncontended(reference_s: Seconds) -> NDArray[np.bool_]:
    """Return in which processes the machine had its cores for itself, (processes,)."""
    seconds = np.asarray(reference_s, dtype=np.float64)
    if not seconds.size:
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(seconds <= CONTENDED * np.quantile(seconds, 0.1))


def kernel_weights(current_s: Seconds, stored_s: Seconds) -> Array:
    """Return the weight of each stored process for each current one, (current, stored): 1 at equal speed."""
    current, stored = (np.log(np.asarray(side, dtype=np.float64)) for side in (current_s, stored_s))
    return np.asarray(np.exp(-0.5 * ((current[:, None] - stored) / BANDWIDTH) ** 2))


def supported(current_s: Seconds, stored_s: Seconds) -> NDArray[np.bool_]:
    """Return which processes ran at a speed that is stored, (current,)."""
    return in_support(kernel_weights(current_s, stored_s))


def in_support(weights: Array) -> NDArray[np.bool_]:
    """Return the same from the weights, (current, stored)."""
    return np.asarray(weights.sum(axis=1) >= SUPPORT)


def slope(values: ArrayLike, log_s: ArrayLike, recordings: NDArray[np.int64]) -> Slope:
    """Return the slope of ``values`` over ``log_s``; all (processes,).

    What is measured is weighed against the general knowledge that slopes lie around 0 with ``SLOPE_SD``: the
    mean of two normal distributions by their precision. Its standard deviation is that of least squares,
    made larger by the efficiency of repeated medians, or, if that is more, the one that lets whole
    recordings be off (cluster-robust: Liang and Zeger, Longitudinal Data Analysis Using Generalized Linear
    Models, Biometrika 73, 1986).
    """
    y, x = np.asarray(values, dtype=np.float64), np.asarray(log_s, dtype=np.float64)
    away = x - x.mean() if x.size else x
    spread = float(away @ away)
    if x.size < 3 or math.sqrt(spread / x.size) < 1e-4 * BANDWIDTH:
        return Slope(0.0, SLOPE_SD)
    measured = _repeated_medians(y, x)
    rest = y - measured * x
    numbers, place = np.unique(recordings, return_inverse=True)
    levels = np.array([float(np.median(rest[place == one])) for one in range(len(numbers))])
    levels -= np.median(rest)
    rest = rest - np.median(rest) - levels[place]
    sd = _MAD * float(np.median(np.abs(rest)))
    variance = sd**2 / spread / _EFFICIENCY
    if len(numbers) > 1:
        off = away * (levels[place] + np.clip(rest, -3 * sd, 3 * sd))
        sums = np.bincount(place, off)
        correction = len(numbers) / (len(numbers) - 1)
        variance = max(variance, correction * float(sums @ sums) / spread**2)
    known = SLOPE_SD**2 / (SLOPE_SD**2 + variance)
    return Slope(measured * known, math.sqrt(variance * known))


def _repeated_medians(y: Array, x: Array) -> float:
    """Return the median over points of the median slope to all others."""
    apart = x[:, None] - x
    same = apart == 0
    apart[same] = 1.0
    slopes = (y[:, None] - y) / apart
    slopes[same] = np.inf  # behind all others
    slopes.sort(axis=1)
    counts = x.size - same.sum(axis=1)
    rows = np.arange(x.size)[counts > 0]
    counts = counts[rows]
    medians = (slopes[rows, (counts - 1) // 2] + slopes[rows, counts // 2]) / 2
    return float(np.median(medians))
