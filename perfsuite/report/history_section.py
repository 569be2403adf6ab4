"""The history on the page: a chart per series, and a table of all its changes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from perfsuite.history.chart import describe, story_chart
from perfsuite.history.trend import change_text, format_value, short, tone
from perfsuite.render.blocks import Block, Column, Note, Row, Table, columns
from perfsuite.report.parts import Figure, Section
from perfsuite.units import counted

if TYPE_CHECKING:
    from perfsuite.history.explaining import Story

SHOWN_RUNS = 20_000  # in all charts together: the page stays small
LISTED = 20  # runs in a chart's table, the latest


def history_section(stories: Sequence[Story], command: str) -> Section | None:
    """All stored series, those that changed first; ``command`` read them. None without any."""
    if not stories:
        return None
    ordered = sorted(stories, key=lambda story: not story.changes)
    drawn = _that_fit(ordered)
    left_out = len(ordered) - len(drawn)
    note = (
        "A line is the level, the band around it what noise does to 95% of the runs, a dashed mark a "
        "change of level. Changes are for reading: the gate alone decides."
    )
    shown: list[Block] = [Note(note)]
    if any(story.changes for story in ordered):
        shown.append(_changes(ordered))
    return Section(
        "history",
        "History",
        "History",
        blocks=shown,
        figures=[_figure(story, place, command) for place, story in enumerate(drawn)],
        rest=f"{left_out} more series are not drawn." if left_out else "",
    )


def _that_fit(stories: Sequence[Story]) -> list[Story]:
    """The first of ``stories`` that have at most SHOWN_RUNS runs together."""
    runs = accumulate(len(story.series.points) for story in stories)
    return [story for story, so_far in zip(stories, runs, strict=True) if so_far <= SHOWN_RUNS]


def _figure(story: Story, place: int, command: str) -> Figure:
    series = story.series
    runs = list(zip(series.points, story.trend.levels, strict=True))[-LISTED:]
    table = Table(
        columns("commit", "date", "value", "level", "verdict", left=("date", "verdict")),
        [
            Row(
                short(point.commit),
                f"{point.committed:%Y-%m-%d}",
                format_value(point.value, series.figure),
                format_value(level, series.figure),
                point.measurement.verdict or "",
            )
            for point, level in runs
        ],
        f"{series.subject}: the latest {len(runs)} of {counted(len(series.points), 'run')}",
    )
    chart = story_chart(story, f"history-{place}")
    return Figure(chart, f"{series.subject}: {describe(story)}.", command, table)


def _changes(stories: Sequence[Story]) -> Table:
    return Table(
        [Column(head) for head in ("subject", "machine", "change", "with it", "accepted")],
        [
            Row(
                story.series.subject,
                story.series.machine,
                change_text(one),
                "; ".join(one.moved),
                one.accepted.reason if one.accepted else "no",
                tone=tone(one),
            )
            for story in stories
            for one in story.changes
        ],
        "Changes of level, with 95% intervals of size and place",
    )
