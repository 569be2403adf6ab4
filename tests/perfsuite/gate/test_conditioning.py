"""Like with like: kernel weights, the line, common support."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.gate import conditioning
from perfsuite.gate.conditioning import kernel_weights, slope, steady, supported, uncontended

seconds = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=12)


def test_equal_speeds_weigh_one_and_distant_ones_nothing() -> None:
    weights = kernel_weights([1.0], [1.0, 2.0])
    assert weights[0, 0] == 1.0
    assert weights[0, 1] < 1e-20


@given(seconds, seconds, st.floats(1e-3, 1e3))
def test_weights_do_not_depend_on_the_unit(
    current: list[float], stored: list[float], unit: float
) -> None:
    scaled = kernel_weights(np.array(current) * unit, np.array(stored) * unit)
    assert scaled == pytest.approx(kernel_weights(current, stored), abs=1e-9)


@given(seconds, seconds)
def test_weights_are_symmetric(current: list[float], stored: list[float]) -> None:
    assert kernel_weights(current, stored) == pytest.approx(kernel_weights(stored, current).T)


def test_a_speed_that_nobody_stored_is_out_of_support() -> None:
    assert supported([1.0, 1.5], [1.0, 1.01, 0.99, 1.0]).tolist() == [True, False]
    assert supported([], [1.0]).tolist() == []


def test_one_process_is_no_support() -> None:
    assert not supported([1.0], [1.0, 1.0]).any()


def test_a_process_beside_a_neighbour_is_contended() -> None:
    assert uncontended([1.0, 1.1, 1.5]).tolist() == [True, True, False]
    assert uncontended([]).tolist() == []


def test_rounds_of_another_speed_than_most_are_not_steady() -> None:
    assert steady([1.0, 1.02, 1.3, 0.99]).tolist() == [True, True, False, True]
    assert steady([]).tolist() == []


def test_a_reference_that_varies_by_itself_is_allowed_its_spread() -> None:
    assert steady([1.0, 1.2, 0.8, 1.25, 0.75]).all()


def test_the_slope_of_a_line_is_found_though_some_processes_are_off() -> None:
    rng = np.random.default_rng(0)
    log_s = rng.normal(0, 0.1, 40)
    values = -0.4 * log_s + rng.normal(0, 1e-3, 40)
    values[:5] += 1.0
    found = slope(values, log_s, np.zeros(40, dtype=np.int64))
    assert found.value == pytest.approx(-0.4, abs=0.02)
    assert found.sd < 0.05


def test_one_speed_says_nothing_of_the_slope() -> None:
    found = slope(np.arange(10.0), np.zeros(10), np.zeros(10, dtype=np.int64))
    assert found.value == 0.0
    assert found.sd == conditioning.SLOPE_SD


def test_speeds_that_differ_by_recording_alone_leave_the_slope_open() -> None:
    rng = np.random.default_rng(0)
    recordings = np.repeat(np.arange(4), 20)
    log_s = 0.1 * recordings + rng.normal(0, 1e-3, 80)
    hours = np.array([0.03, -0.03, 0.02, -0.02])[recordings]
    rest = rng.normal(0, 1e-3, 80)
    together = slope(hours + rest, log_s, recordings)
    alone = slope(rest, log_s, recordings)
    assert together.sd > 5 * alone.sd


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_the_slope_does_not_depend_on_units(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    log_s, values = rng.normal(0, 0.1, 12), rng.normal(0, 0.02, 12)
    one = np.zeros(12, dtype=np.int64)
    found, moved = slope(values, log_s, one), slope(values + 3.0, log_s + np.log(unit), one)
    assert moved.value == pytest.approx(found.value, abs=1e-6)
    assert moved.sd == pytest.approx(found.sd, rel=1e-4, abs=1e-9)
