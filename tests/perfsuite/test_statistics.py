from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from perfsuite.statistics import Estimate, median, median_confidence, paired_ratio, shares

SECONDS = st.floats(1e-5, 1e3)
SAMPLES = st.lists(SECONDS, min_size=1, max_size=30)
PAIRS = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=15)
RESAMPLES = 199

few = settings(max_examples=40, deadline=None)


def ends(estimate: Estimate) -> list[float]:
    return [estimate.low, estimate.value, estimate.high]


def ratio(pairs: list[tuple[float, float]], scale: float = 1.0) -> Estimate:
    above, below = np.array(pairs).T
    return paired_ratio(above * scale, below, resamples=RESAMPLES)


@few
@given(SAMPLES)
def test_median_lies_inside_its_interval_and_that_inside_the_samples(samples: list[float]) -> None:
    estimate = median(samples)
    assert min(samples) <= estimate.low <= estimate.value <= estimate.high <= max(samples)
    assert estimate.value == np.median(samples)


@few
@given(SAMPLES, st.floats(1e-3, 1e3))
def test_median_scales_with_its_unit(samples: list[float], scale: float) -> None:
    scaled = median([sample * scale for sample in samples])
    assert_allclose(ends(scaled), np.array(ends(median(samples))) * scale, rtol=1e-9)


@few
@given(SAMPLES, st.data())
def test_a_slower_sample_never_lowers_the_median(samples: list[float], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(samples) - 1))
    slower = [*samples]
    slower[index] *= 2
    assert all(a <= b for a, b in zip(ends(median(samples)), ends(median(slower)), strict=True))


@few
@given(SAMPLES)
def test_more_confidence_never_narrows_the_interval(samples: list[float]) -> None:
    narrow, wide = median(samples, 0.5), median(samples, 0.99)
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


def test_median_interval_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).lognormal(size=(400, 15))
    covered = [estimate.low <= 1.0 <= estimate.high for estimate in map(median, draws)]
    assert np.mean(covered) >= 0.93


def test_confidence_of_few_samples_is_what_they_can_give() -> None:
    assert median_confidence(1) == 0.0
    assert median_confidence(5) == 0.9375
    assert median_confidence(6) == median_confidence(100) == 0.95


@few
@given(PAIRS)
def test_ratio_lies_inside_its_interval_and_that_inside_the_pairs(
    pairs: list[tuple[float, float]],
) -> None:
    low, value, high = ends(ratio(pairs))
    ratios = [above / below for above, below in pairs]
    assert min(ratios) * (1 - 1e-9) <= low <= value <= high <= max(ratios) * (1 + 1e-9)


@few
@given(PAIRS, st.floats(1e-3, 1e3))
def test_ratio_scales_with_its_numerators(pairs: list[tuple[float, float]], scale: float) -> None:
    expected = np.array(ends(ratio(pairs))) * scale
    assert_allclose(ends(ratio(pairs, scale)), expected, rtol=1e-9)


@few
@given(PAIRS)
def test_swapped_pairs_give_the_inverse_ratio(pairs: list[tuple[float, float]]) -> None:
    swapped = ratio([(below, above) for above, below in pairs])
    assert_allclose(swapped.value, 1 / ratio(pairs).value, rtol=1e-9)


def test_ratio_cancels_a_drift_that_both_share() -> None:
    drift = np.linspace(1.0, 3.0, 9)
    estimate = paired_ratio(2.0 * drift, drift, resamples=RESAMPLES)
    assert_allclose(ends(estimate), 2.0)


def test_ratio_is_reproducible_by_its_seed() -> None:
    above, below = np.random.default_rng(1).lognormal(size=(2, 12))
    assert paired_ratio(above, below, seed=3) == paired_ratio(above, below, seed=3)


def test_one_pair_gives_an_interval_of_no_width() -> None:
    assert_allclose(ends(paired_ratio([3.0], [2.0])), 1.5)


@pytest.mark.parametrize("samples", [[], [float("nan")], [float("inf")], [[1.0]]])
def test_what_is_no_sample_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="samples"):
        median(samples)


@pytest.mark.parametrize(("above", "below"), [([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_what_is_no_pair_is_refused(above: list[float], below: list[float]) -> None:
    with pytest.raises(ValueError, match=r"paired|positive"):
        paired_ratio(above, below)


@given(st.lists(st.floats(0, 1e3), max_size=8), st.integers(0, 100))
def test_shares_hand_out_every_cell_within_one_of_exact(parts: list[float], cells: int) -> None:
    counts = shares(parts, cells)
    total = sum(parts)
    assert sum(counts) == (cells if total > 0 else 0)
    assert all(
        abs(count - part / total * cells) < 1 + 1e-9
        for count, part in zip(counts, parts, strict=True)
        if total > 0
    )
