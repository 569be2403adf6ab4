"""The history as text: a line for each series, and one for each change."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

from rich.console import Console

from perfsuite.history.accepted import Known
from perfsuite.history.command import read_stories
from perfsuite.history.trend import history_blocks, sparkline
from perfsuite.render.terminal import show
from tests.perfsuite.history.conftest import levels

WriteRuns = Callable[..., list[str]]


def test_a_terminal_without_unicode_gets_a_line_too(tmp_path: Path, write_runs: WriteRuns) -> None:
    write_runs(tmp_path, levels(1.5, 1.65))
    stories, _ = read_stories(tmp_path, Known())
    page = TextIOWrapper(BytesIO(), encoding="ascii")
    show(history_blocks(stories), Console(file=page, markup=False))
    page.seek(0)
    assert "_" in page.read()


def test_a_sparkline_goes_from_lowest_to_highest() -> None:
    assert sparkline([1, 2, 3], blocks="_-^") == "_-^"
    assert sparkline([1.0] * 3, blocks="_-^") == "---"
    assert sparkline(range(1, 101), cells=3, blocks="_-^") == "_-^"
    assert len(sparkline([1.0] * 100, cells=40)) == 40
