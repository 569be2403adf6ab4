"""Blocks as Markdown, for a step summary, a comment or a document: no name in them becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from perfsuite.render.blocks import Block, Heading, Listing, Note, Paragraph, Shares, Table

_SIGNS = {"bad": "🔴", "good": "🟢", "better": "🔵", "unsure": "🟡", "noted": "⚪"}
# An underscore inside a word is plain text, and so is a bracket that no address follows.
_MARKUP = re.compile(r"[\\|`*<~&]|(?<![^\W_])_|_(?![^\W_])|(?<=\])[(\[:]")
_AT_START = re.compile(r"(?:#+|[+]|[=-]+|\d+[.)])(?=\s|$)|>|\[")


def markdown(blocks: Iterable[Block]) -> str:
    """Return the blocks, a blank line between each two that are no notes."""
    parts = []
    for kind, group in groupby(blocks, lambda block: block.kind):
        if kind == "note":
            parts.append("\n".join(f"- {''.join(_lines(note))}" for note in group))
        else:
            parts += ["\n".join(_lines(block)) for block in group]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return the text on one line, shown as it is."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"{'#' * (2 + level)} {escaped(text)}"
        case Paragraph(text):
            yield _begun(text)
        case Note(text, title, tone):
            sign = f"{_SIGNS[tone]} " if tone in _SIGNS else ""
            shown = f"**{escaped(title)}:** {escaped(text)}" if title else _begun(text)
            yield sign + shown
        case Listing(text):
            yield from ("```", text, "```")
        case Table():
            yield from _table(block)
        case Shares():
            yield from _table(block.table())


def _begun(text: str) -> str:
    """Return the text as the beginning of a line, where more may be markup than inside one."""
    line = escaped(text)
    start = _AT_START.match(line)
    return f"{line[: start.end() - 1]}\\{line[start.end() - 1 :]}" if start else line


def _table(table: Table) -> Iterator[str]:
    if table.caption:
        yield from (_begun(table.caption), "")
    signs = [_SIGNS.get(row.tone, "") for row in table.rows]
    signed = any(signs)
    yield _row([*[""] * signed, *(column.head for column in table.columns)])
    rules = ["---:" if column.figures else "---" for column in table.columns]
    yield f"|{'|'.join(['---'] * signed + rules)}|"
    for sign, row in zip(signs, table.rows, strict=True):
        yield _row([*[sign] * signed, *row.cells])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"
