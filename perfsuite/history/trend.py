"""The history as blocks: a row per series, and a note per change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from perfsuite.history.series import RATIO, by_place
from perfsuite.render.blocks import MISSING, Block, Heading, Note, Row, Table, Tone, columns
from perfsuite.units import brief_seconds, change

if TYPE_CHECKING:
    from perfsuite.history.explaining import Explained, Story

CELLS = 30
HEIGHTS = "▁▂▃▄▅▆▇█"
SHOWN_COMMIT = 9
_COLUMNS = columns(
    "subject", "runs", "trend", "latest", "at", "verdict", "noise", left=("trend", "at", "verdict")
)


def history_blocks(stories: Sequence[Story]) -> Iterator[Block]:
    """Yield ``stories`` by machine and workload: a row for each series, a note for each change."""
    by_series = {id(story.series): story for story in stories}
    for (machine, workload), series in by_place([story.series for story in stories]).items():
        shown = [by_series[id(one)] for one in series]
        yield Heading(" - ".join(part for part in (workload, machine) if part), 2)
        yield Table(_COLUMNS, [_row(story) for story in shown])
        for story in shown:
            for explained in story.changes:
                yield Note(_change(explained), story.series.subject, tone(explained))


def sparkline(values: Sequence[float], cells: int = CELLS, blocks: str = HEIGHTS) -> str:
    """At most ``cells`` characters, each the median of its share of ``values``, lowest to highest."""
    count = min(cells, len(values))
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    groups = [sorted(values[edges[i] : edges[i + 1]]) for i in range(count)]
    medians = [group[len(group) // 2] for group in groups]
    low, high = min(medians), max(medians)
    if high == low:
        return blocks[len(blocks) // 2] * count
    top = len(blocks) - 1
    return "".join(blocks[round((value - low) / (high - low) * top)] for value in medians)


def change_text(explained: Explained) -> str:
    """What changed, by how much and between which commits, in one line."""
    found, (before, after) = explained.change, (explained.last_before, explained.first_after)
    text = f"{change(found.size)} "
    if before and before == after:
        text += f"at {short(before)}: the code is the same, its environment changed"
    else:
        text += f"after {short(before)}, by {short(after)}"
    widest = explained.widest
    if widest != (before, after):
        text += f" (95%: after {short(widest[0])}, by {short(widest[1])})"
    return text


def short(commit: str) -> str:
    """A commit's first characters."""
    return commit[:SHOWN_COMMIT] or "no commit"


def format_value(value: float, figure: str, digits: int = 3) -> str:
    """``1.51x``, or seconds in their unit, with so many significant digits."""
    return f"{value:.{digits}g}x" if figure == RATIO else brief_seconds(value, digits)


def tone(explained: Explained) -> Tone:
    """Return what a change means."""
    if explained.accepted:
        return "dim"
    return "bad" if explained.change.size.value > 1 else "good"


def _row(story: Story) -> Row:
    series, latest = story.series, story.series.points[-1]
    known = len(series.points) > 1
    return Row(
        series.subject,
        f"{len(series.points):,}",
        sparkline(series.values),
        format_value(latest.value, series.figure),
        short(latest.commit),
        latest.measurement.verdict or MISSING,
        f"{story.trend.spread:.1%}" if known else MISSING,
    )


def _change(explained: Explained) -> str:
    text = f"{'slower' if explained.change.size.value > 1 else 'faster'} {change_text(explained)}"
    if explained.moved:
        text += f"; with it: {'; '.join(explained.moved)}"
    if explained.accepted:
        text += f"; accepted: {explained.accepted.reason}"
    return text
