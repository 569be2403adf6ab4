"""The history as a picture: a panel per series, its level through its runs, its changes marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from perfsuite.charts import drawing
from perfsuite.charts.drawing import RIGHT, TEXT, WIDTH
from perfsuite.charts.markup import Markup, element, join
from perfsuite.charts.scale import Scale, around
from perfsuite.history.explaining import Explained, Story
from perfsuite.history.series import RATIO
from perfsuite.history.trend import format_value, short

HEIGHT = 130.0
PANEL = HEIGHT + 5 * TEXT + 30
_MOST_DIGITS = 9
HINTED = 120  # runs; more would make the page large


def history_chart(stories: Sequence[Story]) -> str:
    """All ``stories`` below one another, as an SVG file."""
    panels = [
        element("g", _panel(story), transform=f"translate(0 {number * PANEL:g})")
        for number, story in enumerate(stories)
    ]
    height = max(1, len(stories)) * PANEL
    return drawing.standalone(
        drawing.svg(height, "History", f"{len(stories)} series over their stored runs", *panels)
    )


def story_chart(story: Story) -> Markup:
    """One series as a picture for a page."""
    title = f"{story.series.subject}: history"
    return drawing.svg(PANEL, title, describe(story), _panel(story))


def describe(story: Story) -> str:
    """What the picture shows, in words."""
    series = story.series
    first, last = (format_value(series.values[place], series.figure) for place in (0, -1))
    changes = [f"{one.change.size - 1:+.1%} by {short(one.first_after)}" for one in story.changes]
    count = len(series.points)
    return (
        f"{count} {'run' if count == 1 else 'runs'}, from {first} to {last}; "
        f"{'changes: ' + ', '.join(changes) if changes else 'no change of level'}"
    )


def _panel(story: Story) -> Markup:
    series, levels = story.series, story.trend.levels
    values = series.values
    top = 3 * TEXT + 20
    up = Scale(*around([*values, *levels]), top + HEIGHT, top)

    form = _form(series.figure, up.ticks())

    left = drawing.left_of(up, form)
    across = Scale(0, max(1, len(values) - 1), left + 6, WIDTH - RIGHT - 6)
    unit = "over the yardstick" if series.figure == RATIO else "median seconds"
    subtitle = ", ".join(part for part in (series.workload, series.machine) if part)
    places = [(across(place), up(value)) for place, value in enumerate(values)]
    return join(
        drawing.text(
            0, TEXT, drawing.shortened(series.subject, WIDTH / drawing.BOLD), style="strong"
        ),
        drawing.text(0, 2 * TEXT + 3, drawing.shortened(subtitle, WIDTH), style="soft"),
        drawing.vertical_axis(up, left, WIDTH - RIGHT, form, unit),
        _ends(story, left, top + HEIGHT),
        drawing.path(places, "one faint"),
        _dots(story, places),
        *(_level(story, start, end, across, up) for start, end in _segments(story)),
        *(_mark(explained, across, top) for explained in story.changes),
    )


def _form(figure: str, ticks: Sequence[float]) -> drawing.Format:
    """Return how the axis' figures are written: with as many digits as tell them apart."""
    digits = 3
    while digits < _MOST_DIGITS and len({format_value(t, figure, digits) for t in ticks}) < len(
        ticks
    ):
        digits += 1
    return lambda value: format_value(value, figure, digits)


def _dots(story: Story, places: Sequence[tuple[float, float]]) -> Markup:
    """A dot per run, which tells of itself when it is pointed at unless there are very many."""
    if len(places) > HINTED:
        return drawing.dots(places, "one")
    hints = [
        f"{short(point.commit)}, {point.committed:%Y-%m-%d}: "
        f"{format_value(point.value, story.series.figure)}"
        for point in story.series.points
    ]
    return join(
        *(drawing.dot(x, y, "one", hint, 2.5) for (x, y), hint in zip(places, hints, strict=True))
    )


def _ends(story: Story, left: float, bottom: float) -> Markup:
    """The commits and dates of the first and the last run."""
    points = story.series.points
    y = bottom + TEXT + 4
    first, last = (
        f"{short(one.commit)} {one.committed:%Y-%m-%d}" for one in (points[0], points[-1])
    )
    if len(points) == 1:
        return drawing.text(left, y, first, style="tick")
    return join(
        drawing.text(0, y, first, style="tick"),
        drawing.text(WIDTH, y, last, anchor="end", style="tick"),
    )


def _segments(story: Story) -> list[tuple[int, int]]:
    edges = [0, *(one.change.index for one in story.changes), len(story.series.points)]
    return list(pairwise(edges))


def _level(story: Story, start: int, end: int, across: Scale, up: Scale) -> Markup:
    y = up(story.trend.levels[start])
    return drawing.line(across(start), y, across(end - 1), y, "range two")


def _mark(explained: Explained, across: Scale, top: float) -> Markup:
    """A dashed line before the first run on the new level, with its size above."""
    change = explained.change
    x = (across(change.index - 1) + across(change.index)) / 2
    style = "six" if explained.accepted else "bad" if change.size > 1 else "good"
    size = f"{change.size - 1:+.1%}"
    room = len(size) * drawing.CHARACTER
    anchor = "end" if x + room > WIDTH else "start"
    return join(
        drawing.line(x, top, x, top + HEIGHT, f"mark {style}"),
        drawing.text(x + (3 if anchor == "start" else -3), top + TEXT - 2, size, anchor=anchor),
    )
