"""The history on the page: a chart per series, and a table of all its changes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from perfsuite.charts.markup import Markup
from perfsuite.history.chart import describe, story_chart
from perfsuite.history.explaining import Story
from perfsuite.history.trend import change_text, format_value, short
from perfsuite.report import parts
from perfsuite.report.parts import Table

SHOWN_RUNS = 20_000  # in all charts together: the page stays small
LISTED = 20  # runs in a chart's table, the latest


def history_section(stories: Sequence[Story], storage: str) -> Markup:
    """All stored series, those that changed first."""
    title = "History"
    if not stories:
        return parts.section(
            "history",
            title,
            parts.missing(
                "No stored runs were given.",
                "pytest perfsuite --benchmark-autosave; --storage .benchmarks",
            ),
        )
    ordered = sorted(stories, key=lambda story: not story.changes)
    command = f"perfsuite history --storage {storage} --chart history.svg"
    drawn = _that_fit(ordered)
    left_out = len(ordered) - len(drawn)
    return parts.section(
        "history",
        title,
        parts.note(
            "A line is the level, a dashed mark a change of it. Changes are for reading: the gate "
            "alone decides."
        ),
        parts.data_table(_changes(ordered)) if any(story.changes for story in ordered) else None,
        parts.figures(*(_figure(story, command) for story in drawn)),
        parts.note(f"{left_out} more series are not drawn.") if left_out > 0 else None,
    )


def _that_fit(stories: Sequence[Story]) -> list[Story]:
    """The first of ``stories`` that have at most SHOWN_RUNS runs together."""
    runs = accumulate(len(story.series.points) for story in stories)
    return [story for story, so_far in zip(stories, runs, strict=True) if so_far <= SHOWN_RUNS]


def _figure(story: Story, command: str) -> Markup:
    series = story.series
    runs = list(zip(series.points, story.trend.levels, strict=True))[-LISTED:]
    table = Table(
        f"{series.subject}: the latest {len(runs)} of {len(series.points)} runs",
        ("commit", "date", "value", "level", "verdict"),
        [
            (
                short(point.commit),
                f"{point.committed:%Y-%m-%d}",
                format_value(point.value, series.figure),
                format_value(level, series.figure),
                point.measurement.verdict or "",
            )
            for point, level in runs
        ],
        frozenset({2, 3}),
    )
    return parts.figure(story_chart(story), f"{series.subject}: {describe(story)}.", command, table)


def _changes(stories: Sequence[Story]) -> Table:
    return Table(
        "Changes of level, with 95% intervals of size and place",
        ("subject", "machine", "change", "with it", "accepted"),
        [
            (
                story.series.subject,
                story.series.machine,
                change_text(one),
                "; ".join(one.moved),
                one.accepted.reason if one.accepted else "no",
            )
            for story in stories
            for one in story.changes
        ],
    )
