"""Alpha spending against published boundaries, and against random walks."""

import numpy as np
import pytest
from scipy import stats

from perfsuite.gate.boundaries import nominal_levels


def test_one_look_spends_all() -> None:
    assert nominal_levels(1, 0.025) == pytest.approx([0.025])


def test_five_looks_as_published() -> None:
    """Of the software of Reboussin, DeMets, Kim and Lan (2000), for 0.025 of one side."""
    bounds = stats.norm.isf(nominal_levels(5, 0.025))
    assert bounds == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=1e-3)


def test_random_walks_cross_as_often_as_is_spent() -> None:
    walks = np.random.default_rng(0).standard_normal((100_000, 6)).cumsum(axis=1)
    crossed = walks / np.sqrt(np.arange(1, 7)) > stats.norm.isf(nominal_levels(6, 0.05))
    assert crossed.any(axis=1).mean() == pytest.approx(0.05, abs=0.003)


def test_later_looks_are_sharper() -> None:
    levels = nominal_levels(6, 0.0125)
    assert list(levels) == sorted(levels)
