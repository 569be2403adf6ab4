"""Blocks as text for a terminal or a log, by rich: no wider than WIDTH, or with every row in a line of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from perfsuite import statistics
from perfsuite.render.blocks import Block, Heading, Listing, Note, Paragraph, Shares, Table

WIDTH = 100
BAR_CELLS = 30
_GAP = 2  # between columns; one, where a table would be too wide otherwise
_WHOLE = 32  # characters of a name that is not folded
_ENDLESS = 100_000
_STYLES = {
    "bad": "red",
    "good": "green",
    "better": "green",
    "unsure": "yellow",
    "dim": "dim",
    "bold": "bold",
}
# The parts of a bar, told apart by their texture where there are no colours.
_GLYPHS = "░▒█▓·"
_COLOURS = ("yellow", "red", "green", "magenta", "blue")
_HEIGHTS = "▁▂▃▄▅▆▇█"
_TO_ASCII = str.maketrans(_GLYPHS + _HEIGHTS[:-1], "-=#+." + "_.-~=+*")


def show(
    blocks: Iterable[Block], console: Console | None = None, *, width: int | None = WIDTH
) -> None:
    """Print the blocks on stdout, or on ``console``: no line is wider than ``width``, and a terminal.

    Of any width (None) a row of a table is one line, where that is no terminal.
    """
    most = _ENDLESS if width is None else width
    if console is None:
        # What is not a terminal has no width of its own, even where FORCE_COLOR makes rich take it for one.
        console = _console(width=None if sys.stdout.isatty() else most)
    console.width = min(most, console.width) if console.is_terminal else most
    with console.capture() as capture:
        console.print(Group(*_spaced(blocks, console.width)))
    text = capture.get()
    if console.options.ascii_only:
        text = text.translate(_TO_ASCII)
    # A table fills its lines with spaces, which nobody wants in a log or a document.
    console.file.write("".join(f"{line.rstrip()}\n" for line in text.split("\n")[:-1]))


def lines(blocks: Iterable[Block]) -> list[str]:
    """Return the blocks' lines, however wide, without any colour: a row of a table is one."""
    page = StringIO()
    console = _console(file=page, width=_ENDLESS, force_terminal=False)
    console.print(Group(*_spaced(blocks, _ENDLESS)))
    return [line.rstrip() for line in page.getvalue().split("\n")[:-1]]


def _console(**how: Any) -> Console:
    """A console that shows names as they are."""
    return Console(markup=False, emoji=False, highlight=False, **how)


def _spaced(blocks: Iterable[Block], width: int) -> Iterator[RenderableType]:
    """Yield what rich prints: a blank line before a part, and around tables."""
    before: Block | None = None
    for block in blocks:
        if before is not None and _are_apart(before, block):
            yield Text()
        yield _rendered(block, width)
        before = block


def _are_apart(before: Block, block: Block) -> bool:
    if isinstance(before, Heading) and before.level > 1:
        return False
    if isinstance(block, Heading) or isinstance(before, Heading):
        return True
    return bool({before.kind, block.kind} & {"table", "shares", "listing"})


def _rendered(block: Block, width: int) -> RenderableType:
    match block:
        case Heading(text, level):
            return Text(text, style="bold" if level > 1 else "")
        case Paragraph(text) | Listing(text):
            return Text(text)
        case Note(text, title, tone):
            words = [(f"{title}: ", "bold"), text] if title else [text]
            return Text.assemble(*words, style=_STYLES.get(tone, ""))
        case Table():
            return _table(block, width)
        case Shares():
            return _shares(block)


def _table(table: Table, width: int) -> Grid:
    rows = [[" ".join(cell.splitlines()) for cell in row.cells] for row in table.rows]
    grid = _grid(_gap(table, rows, width))
    for place, column in enumerate(table.columns):
        whole = place == 0 and all(cell_len(row[0]) <= _WHOLE for row in rows)
        justify: JustifyMethod = "right" if column.figures else "left"
        grid.add_column(
            column.head, justify=justify, no_wrap=whole, overflow="fold", max_width=column.room
        )
    for row, cells in zip(table.rows, rows, strict=True):
        grid.add_row(*map(Text, cells), style=_STYLES.get(row.tone, ""))
    return grid


def _gap(table: Table, rows: Sequence[Sequence[str]], width: int) -> int:
    """Return how far columns stand apart: less where figures would have to be folded otherwise."""
    needed = _GAP * (len(table.columns) - 1)
    for place, column in enumerate(table.columns):
        lines = [
            line
            for cell in (column.head, *(row[place] for row in rows))
            for line in cell.split("\n")
        ]
        longest = max(map(cell_len, lines))
        needed += longest if column.figures else min(longest, column.room or _WHOLE)
    return _GAP if needed <= width else 1


def _grid(gap: int) -> Grid:
    return Grid(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")


def _shares(shares: Shares) -> Grid:
    """A bar for each row; the heads of the percentages are its legend."""
    grid = _grid(_GAP)
    grid.add_column(shares.label, no_wrap=True)
    grid.add_column(shares.title, max_width=BAR_CELLS)
    marks = list(zip(_GLYPHS, _COLOURS, strict=True))
    for (glyph, colour), part in zip(marks, shares.parts, strict=False):
        head = Text.assemble((glyph, colour), f"\n{part}")
        grid.add_column(head, justify="right", no_wrap=True)
    for label, parts in shares.rows.items():
        counts = statistics.shares([parts[part] for part in shares.parts], BAR_CELLS)
        bar = Text.assemble(
            *((glyph * n, colour) for (glyph, colour), n in zip(marks, counts, strict=False))
        )
        grid.add_row(Text(label), bar, *shares.percentages(parts))
    return grid
