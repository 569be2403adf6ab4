"""What a section of the page is made of, as plain data: ``page.html.j2`` makes HTML of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfsuite.render.blocks import Block, Table


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
    blocks: Sequence[Block] = ()
    figures: Sequence[Figure] = ()
    rest: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a part of the page comes from: names and what they stand for, nothing where that is not known."""

    title: str
    words: Sequence[tuple[str, str]]
