"""Single values out of JSON: taken as they are, or refused by the field's name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.checkpoints.fields import (
    LARGEST_NUMBER,
    LARGEST_WHOLE,
    flag,
    number,
    present,
    refuse,
    whole,
)
from runtime.errors import CheckpointError

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())


def taken(check: Callable[..., Any], value: object, **bounds: float) -> bool:
    """Whether ``value`` is taken; what is taken is itself, and a refusal names the field."""
    found, refusal = None, ""
    try:
        found = check("the_field", value, **bounds)
    except CheckpointError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("config field 'the_field' is ")
        return False
    assert found == value
    assert type(found) is {whole: int, number: float, flag: bool}[check]
    return True


@given(ANYTHING, st.integers(-9, 9), st.integers(-9, 9))
def test_a_whole_number_is_an_int_within_its_bounds(value: object, least: int, most: int) -> None:
    right = type(value) is int and least <= value <= most
    assert taken(whole, value, least=least, most=most) is right


@given(ANYTHING, st.floats(-9, 9))
def test_a_number_is_finite_and_above_its_bound(value: object, above: float) -> None:
    right = type(value) in (int, float) and above < value <= LARGEST_NUMBER  # type: ignore[operator]
    assert taken(number, value, above=above) is right


@given(ANYTHING, st.floats(-9, 9))
def test_a_least_number_is_itself_one(value: object, least: float) -> None:
    right = type(value) in (int, float) and least <= value <= LARGEST_NUMBER  # type: ignore[operator]
    assert taken(number, value, least=least) is right
    assert taken(number, least, least=least)


@given(ANYTHING)
def test_a_flag_is_a_bool_and_no_number(value: object) -> None:
    assert taken(flag, value) is (type(value) is bool)


@pytest.mark.parametrize("value", [0, -1, LARGEST_WHOLE + 1, 10**400, True, 1.0, "1", None])
def test_without_bounds_a_whole_number_is_positive_and_of_31_bits(value: object) -> None:
    assert not taken(whole, value)
    assert taken(whole, LARGEST_WHOLE)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e31, 10**400, True, "1", None])
def test_without_bounds_a_number_is_positive(value: object) -> None:
    assert not taken(number, value)
    assert taken(number, 1e-300)


def test_a_refusal_shows_no_more_of_a_value_than_can_be_read() -> None:
    error = str(refuse("name", "x" * 1000, "short"))
    assert error == f"config field 'name' is '{'x' * 76}...; it must be short"


def test_null_is_absence() -> None:
    fields = {"null": None, "zero": 0}
    assert present(fields, "null", 3) == present(fields, "absent", 3) == 3
    assert present(fields, "zero", 3) == 0
    assert present(fields, "absent") is None
