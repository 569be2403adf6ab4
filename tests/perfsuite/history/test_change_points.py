from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.history.change_points import MIN_RUNS, MIN_SEGMENT, detect
from perfsuite.history.rates import PHI, SPREAD, delay, false_changes, noise, true_changes


def test_unchanged_histories_rarely_show_a_change() -> None:
    """200 runs, autocorrelation 0.3: in fewer than 5 % of the histories any change is seen."""
    assert false_changes(200, seed=1) < 0.05


def test_true_changes_are_found_near_their_run() -> None:
    found = true_changes(60, seed=2)
    assert found.all_large == 1.0
    assert found.by_step[0.05] > 0.8
    assert found.extra < 0.1
    assert found.index_covered > 0.9
    assert found.size_covered > 0.8


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_the_level_of_false_changes_is_kept_with_other_noise(phi: float) -> None:
    assert false_changes(100, runs=80, spread=0.05, phi=phi, seed=3) < 0.08


def test_a_new_change_is_seen_soon() -> None:
    assert np.median(delay(0.15, 5, seed=4)) <= 6


def test_a_step_without_noise_is_where_it_is() -> None:
    trend = detect([1.0] * 20 + [1.1] * 20)
    (change,) = trend.changes
    assert change.index == 20
    assert change.earliest <= 20 <= change.latest
    assert change.size.value == pytest.approx(1.1)
    assert trend.levels == pytest.approx([1.0] * 20 + [1.1] * 20)
    assert trend.spread == pytest.approx(0, abs=1e-9)


def test_a_constant_series_has_no_change() -> None:
    assert detect([2.0] * 50).changes == ()


def test_one_bad_run_is_no_change() -> None:
    values = np.exp(noise(np.random.default_rng(5), 1, 60, spread=SPREAD, phi=PHI)[0])
    values[30] *= 3
    assert detect(values).changes == ()


@pytest.mark.parametrize("runs", [1, 2, 3])
@pytest.mark.parametrize("at_the_end", [True, False], ids=["newest", "oldest"])
def test_fewer_runs_on_a_level_than_count_are_not_reported(runs: int, at_the_end: bool) -> None:
    """A step of 50 %, in 100 histories: what is seen is no more than without it."""
    drawn = noise(np.random.default_rng(8), 100, 60, spread=SPREAD, phi=PHI)
    drawn[:, -runs if at_the_end else runs :] += np.log(1.5)
    assert sum(bool(detect(np.exp(row)).changes) for row in drawn) <= 5


def test_a_level_is_reported_with_its_true_size_from_its_fourth_run_on() -> None:
    drawn = noise(np.random.default_rng(9), 100, 60, spread=SPREAD, phi=PHI)
    drawn[:, -MIN_SEGMENT:] += np.log(1.5)
    found = [detect(np.exp(row)).changes for row in drawn]
    right = [changes[-1] for changes in found if changes and changes[-1].index == 60 - MIN_SEGMENT]
    assert len(right) >= 90
    assert np.mean([change.size.low <= 1.5 <= change.size.high for change in right]) >= 0.85


def test_the_noise_is_told() -> None:
    logs = noise(np.random.default_rng(6), 1, 2000, spread=0.03, phi=0.5)[0]
    trend = detect(np.exp(logs))
    assert trend.spread == pytest.approx(0.03, rel=0.25)
    assert trend.phi == pytest.approx(0.5, abs=0.15)


def test_too_few_runs_have_one_level() -> None:
    values = [1.0] * (MIN_RUNS // 2) + [2.0] * (MIN_RUNS // 2 - 1)
    assert detect(values).changes == ()
    assert len(set(detect(values).levels)) == 1


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -1.0], [float("nan")], [[1.0]]])
def test_nonsense_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="positive, finite"):
        detect(values)


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60),
    st.floats(1e-3, 1e3),
)
def test_a_trend_fits_its_series_in_any_unit(values: list[float], scale: float) -> None:
    trend = detect(values)
    assert len(trend.levels) == len(values)
    edges = [0, *(change.index for change in trend.changes), len(values)]
    if trend.changes:
        assert min(np.diff(edges)) >= MIN_SEGMENT
    for change in trend.changes:
        assert 1 <= change.earliest <= change.index <= change.latest < len(values)
        assert change.size.low <= change.size.value <= change.size.high
    scaled = detect([value * scale for value in values])
    assert [change.index for change in scaled.changes] == edges[1:-1]
