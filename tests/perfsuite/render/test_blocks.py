"""What is shown of a result, as plain data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.render.blocks import MISSING, Column, Row, Shares, columns

PARTS = ("a", "b", "c")


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3))
def test_shares_are_percentages_of_their_sum(values: list[float]) -> None:
    shares = Shares("where", PARTS, {})
    told = shares.percentages(dict(zip(PARTS, values, strict=True)))
    if not sum(values):
        assert told == [MISSING] * 3
        return
    assert sum(float(one.removesuffix("%")) for one in told) == pytest.approx(100, abs=0.2)


def test_a_part_that_is_not_named_is_no_part_of_the_whole() -> None:
    shares = Shares("where", ("a", "b"), {})
    assert shares.percentages({"a": 1.0, "b": 3.0, "other": 96.0}) == ["25.0%", "75.0%"]


def test_the_table_of_shares_has_a_row_for_each_label() -> None:
    shares = Shares("where", ("a", "b"), {"x": {"a": 1.0, "b": 1.0}, "y": {"a": 0.0, "b": 0.0}})
    table = shares.table()
    assert table.caption == "where"
    assert table.columns == [Column("stage"), Column("a", figures=True), Column("b", figures=True)]
    assert table.rows == [Row("x", "50.0%", "50.0%"), Row("y", MISSING, MISSING)]


def test_columns_hold_figures_but_for_the_first_and_those_that_are_named() -> None:
    found = columns("stage", "seconds", "bound", left=("bound",))
    assert [one.figures for one in found] == [False, True, False]
    assert [one.head for one in found] == ["stage", "seconds", "bound"]
