"""The history as text: a line per series, and one per change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from perfsuite.history.series import RATIO, by_place
from perfsuite.units import brief_seconds

if TYPE_CHECKING:
    from perfsuite.history.explaining import Explained, Story

WIDTH = 100  # columns, at most
CELLS = 30
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-~=+*#"
SHOWN_COMMIT = 9


def print_history(stories: Sequence[Story], console: Console | None = None) -> None:
    """Print ``stories`` by machine and workload on stdout, or on ``console``."""
    console = console or Console(markup=False, emoji=False, highlight=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    blocks = ASCII_BLOCKS if console.options.ascii_only else BLOCKS
    by_series = {id(story.series): story for story in stories}
    for number, ((machine, workload), series) in enumerate(
        by_place([story.series for story in stories]).items()
    ):
        if number:
            console.print()
        console.print(Text(" - ".join(part for part in (workload, machine) if part), style="bold"))
        width = max(len(one.subject) for one in series)
        for one in series:
            for line in _lines(by_series[id(one)], min(width, WIDTH // 3), blocks):
                console.print(line, overflow="fold")


def sparkline(values: Sequence[float], cells: int = CELLS, blocks: str = BLOCKS) -> str:
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
    change, (before, after) = explained.change, (explained.last_before, explained.first_after)
    text = f"{change.size - 1:+.1%} [{change.low - 1:+.1%}, {change.high - 1:+.1%}] "
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


def _lines(story: Story, width: int, blocks: str) -> list[Text]:
    series = story.series
    values = series.values
    latest = series.points[-1]
    verdict = latest.measurement.verdict
    head = Text.assemble(
        f"{series.subject:{width}}  ",
        (sparkline(values, blocks=blocks), "cyan"),
        f"  {format_value(values[-1], series.figure)} at {short(latest.commit)}",
        f", {verdict}" if verdict else "",
        f"; {len(values)} runs, noise {story.trend.spread:.1%}",
    )
    return [head, *(line for explained in story.changes for line in _change_lines(explained))]


def _change_lines(explained: Explained) -> list[Text]:
    accepted = explained.accepted
    slower = explained.change.size > 1
    style = "dim" if accepted else "red" if slower else "green"
    sign = "slower" if slower else "faster"
    lines = [Text(f"  {sign} {change_text(explained)}", style)]
    if explained.moved:
        lines.append(Text(f"    with it: {'; '.join(explained.moved)}", "dim"))
    if accepted:
        lines.append(Text(f"    accepted: {accepted.reason}", "dim"))
    return lines
