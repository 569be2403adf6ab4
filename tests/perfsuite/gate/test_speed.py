from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.gate.pairing import Replicate
from perfsuite.gate.speed import TOLERANCE, at_speed, typical_s


def replicate(*yardstick: float) -> Replicate:
    """A process whose rounds have the values 0, 1, 2, ..."""
    return Replicate([float(n) for n in range(len(yardstick))], 1.0, {}, 0, [], list(yardstick))


def test_rounds_of_another_speed_are_counted_and_left_out() -> None:
    one, other = at_speed([replicate(1.0, 1.05, 2.0), replicate(0.5, 0.95)], 1.0)
    assert (one.rounds, one.yardstick, one.off_speed) == ([0.0, 1.0], [1.0, 1.05], 1)
    assert (other.rounds, other.yardstick, other.off_speed) == ([1.0], [0.95], 1)


@given(st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=9), st.floats(1e-4, 10.0))
def test_the_rule_knows_the_yardstick_alone(seconds: list[float], reference: float) -> None:
    made = replicate(*seconds)
    slower = Replicate([value + 5.0 for value in made.rounds], 9.0, {}, 0, [], list(seconds))
    (kept,), (also,) = at_speed([made], reference), at_speed([slower], reference)
    assert [value + 5.0 for value in kept.rounds] == also.rounds
    assert len(kept.rounds) + kept.off_speed == len(seconds)
    assert all(abs(math.log(value / reference)) <= TOLERANCE for value in kept.yardstick)
    assert at_speed([kept], reference) == [kept]


def test_the_typical_speed_is_that_of_the_median_round() -> None:
    assert typical_s([replicate(1.0, 9.0), replicate(2.0)]) == pytest.approx(2.0)
    assert math.isnan(typical_s([]))
