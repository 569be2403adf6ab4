"""Quantiles and probabilities of the few distributions that verdicts need, in plain Python.

scipy has them all, and 140 MB of others: whoever only wants a gate is spared it. Held against scipy by the tests.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_PRECISION = 1e-14
_TINY = 1e-300
_PASSES = 100
_NORMAL_FROM = (
    1e6  # degrees of freedom: the difference to the normal distribution is 1e-6 of a quantile
)
_NORMAL = NormalDist()
_erfc = np.frompyfunc(math.erfc, 1, 1)


def normal_cdf(values: ArrayLike) -> NDArray[np.float64]:
    """Return the probability of less than each of ``values``, any shape; exact far into the lower tail."""
    scaled = np.asarray(values, dtype=np.float64) / -math.sqrt(2)
    return np.asarray(_erfc(scaled), dtype=np.float64) / 2


def normal_quantile(probability: float) -> float:
    """Return what a standard normal variable is below with ``probability``, in (0, 1)."""
    return _NORMAL.inv_cdf(probability)


def t_quantile(probability: float, freedom: float) -> float:
    """Return what Student's t is below with ``probability``, in (0, 1), at ``freedom`` > 0, also a fraction.

    Newton's method, kept between bounds by bisection.
    """
    if freedom > _NORMAL_FROM:
        return normal_quantile(probability)
    if probability > 0.5:
        return -t_quantile(1 - probability, freedom)
    if probability == 0.5:
        return 0.0
    # In z = log(1 + t^2 / freedom), which stays moderate where t has heavy tails.
    place = math.log1p(normal_quantile(probability) ** 2 / freedom)
    low, high = 0.0, place
    while _t_tail(high, freedom) > probability:
        low, high = high, 2 * high
    for _ in range(_PASSES):
        tail = _t_tail(place, freedom)
        low, high = (place, high) if tail > probability else (low, place)
        following = (low + high) / 2
        if tail > 0:
            step = math.log(tail / probability) / _t_hazard(place, freedom)
            if low <= place + step <= high:
                following = place + step
        if abs(following - place) <= _PRECISION * following:
            break
        place = following
    return -math.sqrt(freedom * math.expm1(place))


def proportion_interval(hits: int, of: int, confidence: float) -> tuple[float, float]:
    """Return the exact interval of a share of which ``hits`` in ``of`` trials were seen.

    Clopper and Pearson, The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial,
    Biometrika 26, 1934.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _beta_quantile(tail, hits, of - hits + 1)
    high = 1.0 if hits == of else _beta_quantile(1 - tail, hits + 1, of - hits)
    return low, high


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), the probability of less than ``x``.

    By its continued fraction (Abramowitz and Stegun, 26.5.8), evaluated after Lentz.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction of the other tail converges faster
        return 1 - beta_cdf(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    logarithm += a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    value, above, below = 1.0, 1.0, 0.0
    for number in range(1, 100_000):
        half = number // 2
        if number % 2:
            term = -(a + half) * (a + b + half) * x / ((a + number - 1) * (a + number))
        else:
            term = half * (b - half) * x / ((a + number - 1) * (a + number))
        below = 1 / ((1 + term * below) or _TINY)
        above = (1 + term / above) or _TINY
        value *= above * below
        if abs(above * below - 1) < _PRECISION:
            break
    return value


def _t_tail(place: float, freedom: float) -> float:
    """Return the probability of one tail of Student's t beyond z = ``place``."""
    return beta_cdf(math.exp(-place), freedom / 2, 0.5) / 2


def _t_hazard(place: float, freedom: float) -> float:
    """Return by how much the logarithm of the tail falls with z."""
    logarithm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.lgamma(0.5)
    logarithm -= place * freedom / 2 + 0.5 * math.log(-math.expm1(-place))
    return math.exp(logarithm) / 2 / _t_tail(place, freedom)


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_PASSES):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_cdf(middle, a, b) < probability else (low, middle)
    return (low + high) / 2
