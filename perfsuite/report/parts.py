"""What a section of the page is made of, as plain data: ``page.html.j2`` makes HTML of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MISSING = "-"  # a figure that is not known


@dataclass(frozen=True)
class Table:
    """``rows`` below ``heads``; the first cell of a row is its heading. ``figures`` are columns of numbers."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A chart as SVG, what it shows, the command that made its figures if that is known, and these as a table."""

    chart: str
    caption: str
    command: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Section:
    """A landmark of the page; ``menu`` is what its menu calls it, ``rest`` a note at its end."""

    name: str
    menu: str
    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    rest: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a part of the page comes from: names and what they stand for, nothing where that is not known."""

    title: str
    words: Sequence[tuple[str, str]]
