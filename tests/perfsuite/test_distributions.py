from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special, stats

from perfsuite.distributions import (
    beta_cdf,
    normal_cdf,
    normal_quantile,
    proportion_interval,
    t_quantile,
)

PROBABILITIES = (1e-12, 1e-6, 1e-4, 0.0123, 0.2, 0.4999, 0.5, 0.7, 0.975, 0.9999)


def test_the_normal_distribution_is_scipy_s() -> None:
    values = np.linspace(-37.0, 9.0, 200).reshape(20, 10)
    assert_allclose(normal_cdf(values), special.ndtr(values), rtol=1e-12)
    for probability in PROBABILITIES:
        assert_allclose(normal_quantile(probability), special.ndtri(probability), atol=1e-12)


@pytest.mark.parametrize("freedom", [0.7, 1.0, 1.9, 3.0, 7.3, 29.0, 250.0, 1e4, 9e5, 1e9])
def test_student_s_t_is_scipy_s(freedom: float) -> None:
    for probability in PROBABILITIES:
        expected = special.stdtrit(freedom, probability)
        assert_allclose(t_quantile(probability, freedom), expected, rtol=1e-6, atol=1e-7)


def test_the_beta_distribution_is_scipy_s() -> None:
    for a, b in ((0.5, 0.5), (1.0, 30.0), (12.5, 0.5), (400.0, 3.0), (5e4, 0.5)):
        for x in (0.0, 1e-9, 0.01, 0.5, 0.97, 0.999999, 1.0):
            assert_allclose(beta_cdf(x, a, b), special.betainc(a, b, x), rtol=1e-8, atol=1e-300)


@pytest.mark.parametrize(("hits", "of"), [(0, 1), (0, 30), (1, 30), (15, 30), (30, 30), (7, 2000)])
def test_a_share_s_interval_is_scipy_s(hits: int, of: int) -> None:
    expected = stats.binomtest(hits, of).proportion_ci(0.95)
    assert_allclose(proportion_interval(hits, of, 0.95), expected, rtol=1e-9)
