"""The history on the page: every change in a table, and as many charts as keep the page small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perfsuite.history.accepted import Known
from perfsuite.history.command import read_stories
from perfsuite.history.explaining import Story
from perfsuite.render.blocks import Table
from perfsuite.report import history_section as module
from perfsuite.report.history_section import LISTED, history_section

MakePage = Callable[..., str]


@pytest.fixture
def stories(make_page: MakePage, tmp_path: Path) -> list[Story]:
    """Forty runs of two subjects; one of them became 20 % slower."""
    make_page(only="storage")
    found, _ = read_stories(tmp_path / "runs", Known())
    assert [bool(story.changes) for story in found] == [True, False]
    return found


def test_those_that_changed_come_first_and_every_change_is_told(stories: list[Story]) -> None:
    section = history_section(stories[::-1], "perfsuite history")
    assert section is not None
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row.cells[0] for row in table.rows] == ["fused"]
    assert table.rows[0].cells[-1] == "no"  # not accepted
    assert [figure.caption.split(":")[0] for figure in section.figures] == ["fused", "bf16"]
    assert section.rest == ""
    for figure in section.figures:
        assert figure.command == "perfsuite history"
        assert figure.table is not None
        assert len(figure.table.rows) == LISTED
        assert "the latest 20 of 40 runs" in figure.table.caption


def test_charts_that_would_make_the_page_large_are_left_out_and_counted(
    stories: list[Story], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHOWN_RUNS", 50)
    section = history_section(stories, "perfsuite history")
    assert section is not None
    assert len(section.figures) == 1
    assert section.rest == "1 more series are not drawn."


def test_without_a_change_there_is_no_table_of_them(stories: list[Story]) -> None:
    section = history_section(stories[1:], "perfsuite history")
    assert section is not None
    assert not [block for block in section.blocks if isinstance(block, Table)]


def test_without_a_series_there_is_no_section() -> None:
    assert history_section([], "perfsuite history") is None
