from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.units import brief_seconds, percent, seconds, size

SIZES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.12e-7, "412 ns"),
        (5e-8, "50.0 ns"),
        (1e-11, "0.0100 ns"),
        (1e-6, "1.00 us"),
        (0.9994e-3, "999 us"),
        (0.9996e-3, "1.00 ms"),
        (0.0123, "12.3 ms"),
        (1.0, "1.00 s"),
        (1234.0, "1234 s"),
        (0.0, "0 ns"),
        (-0.002, "-2.00 ms"),
        (math.nan, "-"),
        (math.inf, "-"),
    ],
)
def test_seconds_have_three_digits_and_the_unit_that_suits(value: float, text: str) -> None:
    assert seconds(value) == text


@given(st.floats(1e-9, 1e5))
def test_what_is_shown_is_what_was_meant(value: float) -> None:
    number, unit = seconds(value).split()
    assert float(number) * SIZES[unit] == pytest.approx(value, rel=0.0051)
    assert float(number) < 1000 or unit == "s"
    assert "e" not in number
    assert len(re.sub(r"\D", "", number).lstrip("0")) == 3 or value >= 999.5


@pytest.mark.parametrize(
    ("share", "text"), [(0.1, "+10.0%"), (-0.052, "-5.2%"), (0.0, "+0.0%"), (math.nan, "-")]
)
def test_changes_have_their_sign(share: float, text: str) -> None:
    assert percent(share) == text


def test_an_axis_has_figures_without_zeros_that_say_nothing() -> None:
    assert [brief_seconds(value) for value in (0, 2.5e-9, 3.5e-5, 0.01234, 0.99999, 12)] == [
        "0",
        "2.5 ns",
        "35 us",
        "12.3 ms",
        "1 s",
        "12 s",
    ]
    assert brief_seconds(1.23456, 5) == "1.2346 s"


def test_sizes_are_in_powers_of_ten() -> None:
    assert [size(value) for value in (1, 1e3, 999_900, 1.34e8, 7.5e9)] == [
        "1 B",
        "1 KB",
        "1 MB",
        "134 MB",
        "7.5 GB",
    ]
