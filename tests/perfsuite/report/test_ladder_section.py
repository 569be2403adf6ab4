"""The ladder on the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perfsuite.llama.results import PHASES, Ladder
from perfsuite.render.blocks import MISSING, Heading, Shares
from perfsuite.report.ladder_section import ladder_section, speedup_section

Build = Callable[..., dict[str, Any]]

MakePage = Callable[..., str]


def test_the_forecast_stands_only_beside_a_measurement(make_page: MakePage) -> None:
    text = make_page()
    found = re.search('<section id="speedup".*?</section>', text, re.DOTALL)
    assert found is not None
    assert "2x, forecast 33x" in found[0]
    assert "332 ms" not in text  # the forecast's milliseconds, which were never measured


def ladder(content: dict[str, Any]) -> Ladder:
    return msgspec.json.decode(msgspec.json.encode(content), type=Ladder)


def test_every_stage_and_both_unsplit_models_are_drawn_with_their_seconds(
    build_result: Build,
) -> None:
    section = ladder_section(ladder(build_result()))
    assert section is not None
    seconds, shares = section.figures
    for name in ("baseline", "bf16", "unsplit float32", "unsplit bfloat16"):
        assert name in seconds.chart
    assert seconds.table is not None
    assert shares.table is not None
    assert [len(row.cells) for row in seconds.table.rows] == [1 + len(PHASES)] * 4
    assert all("20.0%" in row.cells for row in shares.table.rows)
    # The page's title is the heading, and shares are drawn.
    assert not [block for block in section.blocks if isinstance(block, Heading | Shares)]


def test_a_stage_whose_baseline_was_not_run_has_no_speed_up(build_result: Build) -> None:
    content = build_result()
    for row in content["stages"][1:]:
        row.update(vs_baseline=None, vs_baseline_interval=None)
    section = speedup_section(ladder(content))
    assert section is not None
    (figure,) = section.figures
    assert figure.table is not None
    assert [row.cells[0] for row in figure.table.rows] == ["baseline"]
    content["stages"][0].update(vs_baseline=None, vs_baseline_interval=None)
    assert speedup_section(ladder(content)) is None


@pytest.mark.parametrize("rounds", [1, 5])
def test_an_interval_is_shown_where_there_were_several_rounds(
    build_result: Build, rounds: int
) -> None:
    section = speedup_section(ladder(build_result(rounds=rounds)))
    assert section is not None
    assert section.figures[0].table is not None
    cells = [row.cells[1] for row in section.figures[0].table.rows]
    assert all(("[" in cell) == (rounds > 1) for cell in cells)
    assert all(row.cells[2] != MISSING for row in section.figures[0].table.rows)


def test_without_a_stage_there_is_no_section(build_result: Build) -> None:
    assert ladder_section(ladder(build_result(stages=[]))) is None
