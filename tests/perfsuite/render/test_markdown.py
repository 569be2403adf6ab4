from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.render.blocks import (
    Block,
    Heading,
    Listing,
    Note,
    Paragraph,
    Row,
    Shares,
    Table,
    columns,
)
from perfsuite.render.markdown import escaped, markdown


def test_each_block_has_its_form() -> None:
    rows = [Row("a|b", "1", tone="good"), Row("c", "2", tone="dim")]
    blocks: list[Block] = [
        Heading("what *it* is"),
        Heading("a part", 2),
        Paragraph("1. is no list"),
        Listing("a `command`"),
        Table(columns("name", "count"), rows, "- and no list either"),
        Shares("parts", ("x", "y"), {"one": {"x": 1.0, "y": 3.0}, "none": {"x": 0.0, "y": 0.0}}),
        Note("said", "first"),
        Note("# second", tone="bad"),
    ]
    assert markdown(blocks).split("\n\n") == [
        r"### what \*it\* is",
        "#### a part",
        r"1\. is no list",
        "```\na `command`\n```",
        r"\- and no list either",
        "|  | name | count |\n|---|---|---:|\n| 🟢 | a\\|b | 1 |\n|  | c | 2 |",
        "parts",
        "| stage | x | y |\n|---|---:|---:|\n| one | 25.0% | 75.0% |\n| none | - | - |",
        "- **first:** said\n- 🔴 \\# second\n",
    ]


@given(st.text())
def test_any_text_stays_in_its_cell(text: str) -> None:
    cell = escaped(text)
    assert len(cell.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", cell)


@pytest.mark.parametrize("mark", ["#", "##", ">", "-", "+", "===", "12.", "12)", "[a]:"])
def test_no_paragraph_begins_with_markup(mark: str) -> None:
    (line, _) = markdown([Paragraph(f"{mark} words")]).split("\n")
    assert "\\" in line[: len(mark) + 1]
    assert line.replace("\\", "") == f"{mark} words"


@pytest.mark.parametrize("text", ["+10.2% [+8.0%, +12.5%]", "-0.6%", "test_it[a-b]", "a_b", "x-1."])
def test_what_is_no_markup_stays_as_it_is(text: str) -> None:
    assert markdown([Paragraph(text)]) == f"{text}\n"


def test_no_link_is_made_of_a_name() -> None:
    assert escaped("[a](u) ![b](v) <c> &lt;") == r"[a]\(u) ![b]\(v) \<c> \&lt;"
