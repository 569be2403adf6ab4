"""The history as a picture: a panel per series, its level through its runs, its changes marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perfsuite import charts
from perfsuite.charts import Mark, Panel, Words
from perfsuite.history.series import RATIO
from perfsuite.history.trend import format_value, short, tone
from perfsuite.units import counted, percent

if TYPE_CHECKING:
    from perfsuite.history.explaining import Explained, Story

_MOST_DIGITS = 9


def history_chart(stories: Sequence[Story]) -> str:
    """All ``stories`` below one another, as an SVG file."""
    words = Words("history", "History", f"{len(stories)} series over their stored runs")
    return charts.standalone(charts.panels([_panel(story) for story in stories], words))


def story_chart(story: Story, name: str = "history") -> str:
    """One series as a picture for a page, which has ``name`` once."""
    title = f"{story.series.subject}: history"
    return charts.panels([_panel(story)], Words(name, title, describe(story)))


def describe(story: Story) -> str:
    """What the picture shows, in words."""
    series = story.series
    first, last = (format_value(series.values[place], series.figure) for place in (0, -1))
    changes = [
        f"{percent(one.change.size.value - 1)} by {short(one.first_after)}" for one in story.changes
    ]
    return (
        f"{counted(len(series.points), 'run')}, from {first} to {last}; "
        f"{'changes: ' + ', '.join(changes) if changes else 'no change of level'}"
    )


def _panel(story: Story) -> Panel:
    series, points = story.series, story.series.points
    days = [f"{point.committed:%Y-%m-%d}" for point in points]
    values = [format_value(point.value, series.figure) for point in points]
    commits = [short(point.commit) for point in points]
    told = zip(commits, days, values, strict=True)
    return Panel(
        title=series.subject,
        subtitle=", ".join(part for part in (series.workload, series.machine) if part),
        unit="over the reference" if series.figure == RATIO else "median seconds",
        values=series.values,
        levels=story.trend.levels,
        spread=story.trend.spread,
        marks=[_mark(explained) for explained in story.changes],
        hints=[f"{commit}, {day}: {value}" for commit, day, value in told],
        ends=(f"{commits[0]} {days[0]}", f"{commits[-1]} {days[-1]}"),
        form=lambda places: _figures(places, series.figure),
    )


def _figures(places: Sequence[float], figure: str) -> list[str]:
    """Return an axis' figures, with as many digits as tell them apart."""
    found: list[str] = []
    for digits in range(3, _MOST_DIGITS + 1):
        found = [format_value(place, figure, digits) for place in places]
        if len(set(found)) == len(places):
            break
    return found


def _mark(explained: Explained) -> Mark:
    colour = {"dim": "six"}.get(tone(explained), tone(explained))
    return Mark(explained.change.index, colour, percent(explained.change.size.value - 1))
