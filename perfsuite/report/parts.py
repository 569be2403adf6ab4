"""What every section of the page is made of: figures, tables that scroll in their own box, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfsuite.charts.markup import Markup, element, join

MISSING = "-"  # a figure that is not known


@dataclass(frozen=True)
class Table:
    """``rows`` below ``heads``; the first cell of a row is its heading. ``figures`` are columns of numbers."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: frozenset[int] = frozenset()


def section(name: str, title: str, *parts: str | None) -> Markup:
    """A landmark of the page that its menu leads to."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *parts, id=name, aria_labelledby=f"{name}-title")


def missing(what: str, command: str) -> Markup:
    """A note in place of what there is no input for."""
    return element("p", f"{what} To add it: ", element("code", command), class_="missing")


def note(*words: str) -> Markup:
    """A paragraph of explanation."""
    return element("p", *words, class_="note")


def figure(chart: Markup, caption: str, command: str, table: Table | None = None) -> Markup:
    """A chart, what it shows, the command that made it, and its figures for those who read."""
    return element(
        "figure",
        chart,
        element("figcaption", caption),
        _details("Figures as a table", data_table(table)) if table else None,
        element("p", "Made by ", element("code", command), class_="made"),
    )


def figures(*parts: Markup) -> Markup:
    """Figures side by side where there is room."""
    return element("div", *parts, class_="figures")


def data_table(table: Table) -> Markup:
    """A table in a box of its own, which scrolls by finger and by keyboard where it is too wide."""
    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_=_alignment(number, table))
            for number, name in enumerate(table.heads)
        ),
    )
    rows = [
        element("tr", *(_cell(number, cell, table) for number, cell in enumerate(row)))
        for row in table.rows
    ]
    whole = element(
        "table",
        element("caption", element("span", table.caption)),
        element("thead", head),
        element("tbody", *rows),
    )
    return element(
        "div", whole, class_="scroll", tabindex="0", role="region", aria_label=table.caption
    )


def definitions(title: str, words: Sequence[tuple[str, str]]) -> Markup:
    """Names and what they stand for."""
    pairs = [join(element("dt", name), element("dd", value)) for name, value in words if value]
    return element("div", element("h3", title), element("dl", *pairs), class_="panel")


def _details(summary: str, content: Markup) -> Markup:
    return element("details", element("summary", summary), content)


def _cell(number: int, words: str, table: Table) -> Markup:
    if number == 0:
        return element("th", words, scope="row")
    return element("td", words, class_=_alignment(number, table))


def _alignment(number: int, table: Table) -> str | None:
    return "figure" if number in table.figures else None
