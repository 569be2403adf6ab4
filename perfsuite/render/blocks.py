"""What is shown of a result, as plain data. Imports nothing, so that whatever has a result can make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

MISSING = "-"  # a figure that is not known

Tone: TypeAlias = Literal["", "bad", "good", "better", "unsure", "noted", "dim", "bold"]
"""What a row means: a verdict, or how much it matters beside the others."""


@dataclass(frozen=True)
class Heading:
    """A title; the whole result has level 1, its parts have level 2."""

    kind: ClassVar = "heading"
    text: str
    level: int = 1


@dataclass(frozen=True)
class Paragraph:
    """A sentence or several."""

    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True)
class Note:
    """One of several remarks; ``title`` says what about."""

    kind: ClassVar = "note"
    text: str
    title: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Listing:
    """A command, or what else is shown letter by letter."""

    kind: ClassVar = "listing"
    text: str


@dataclass(frozen=True)
class Column:
    """``figures`` are numbers. ``room``: characters that a terminal may give it; None for as many as it needs."""

    head: str
    figures: bool = False
    room: int | None = None


@dataclass(frozen=True, init=False)
class Row:
    """Cells, one for each column; the first says what the others are about."""

    cells: Sequence[str]
    tone: Tone

    def __init__(self, *cells: str, tone: Tone = "") -> None:
        object.__setattr__(self, "cells", cells)
        object.__setattr__(self, "tone", tone)


@dataclass(frozen=True)
class Table:
    """Rows below the columns' heads. ``caption`` says what is shown, where the medium does not have room beside it."""

    kind: ClassVar = "table"
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""


@dataclass(frozen=True)
class Shares:
    """What a whole consists of: a row of parts for each label, drawn where the medium can, and in percent."""

    kind: ClassVar = "shares"
    title: str
    parts: Sequence[str]
    rows: Mapping[str, Mapping[str, float]]
    label: str = "stage"

    def table(self) -> Table:
        """Return the percentages."""
        columns = [Column(self.label), *(Column(part, figures=True) for part in self.parts)]
        rows = [Row(label, *self.percentages(parts)) for label, parts in self.rows.items()]
        return Table(columns, rows, self.title)

    def percentages(self, parts: Mapping[str, float]) -> list[str]:
        """Return each part in percent of their sum."""
        total = sum(parts[part] for part in self.parts)
        return [f"{parts[part] / total:.1%}" if total else MISSING for part in self.parts]


Block: TypeAlias = Heading | Paragraph | Note | Listing | Table | Shares


def columns(*heads: str, left: Sequence[str] = ()) -> list[Column]:
    """Return columns of figures behind a first one of words; so are those that are named in ``left``."""
    return [Column(head, figures=bool(n) and head not in left) for n, head in enumerate(heads)]
