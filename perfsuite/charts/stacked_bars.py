"""A bar per row, made of parts that add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perfsuite.charts import drawing
from perfsuite.charts.drawing import RIGHT, TEXT, WIDTH, Entry, Format
from perfsuite.charts.markup import Markup, join
from perfsuite.charts.scale import Scale

BAR = 18.0
ROW = BAR + TEXT + 14


@dataclass(frozen=True)
class StackedRow:
    """``parts`` by the class of their style; ``note`` stands at the right, above the bar."""

    label: str
    parts: Mapping[str, float]
    note: str = ""


def stacked_bars(
    rows: Sequence[StackedRow], *, title: str, description: str, unit: str, form: Format
) -> Markup:
    """Bars over one common axis in ``unit``; the parts' classes are what the legend calls them."""
    names = list(dict.fromkeys(name for row in rows for name in row.parts))
    key, top = drawing.legend([Entry(name, name) for name in names], 0)
    longest = max(sum(row.parts.values()) for row in rows)
    scale = Scale(0, longest or 1.0, 0, WIDTH - RIGHT)
    bottom = top + 6 + len(rows) * ROW
    parts: list[str] = [key, drawing.horizontal_axis(scale, top + 6, bottom, form, unit)]
    for number, row in enumerate(rows):
        y = top + 6 + number * ROW
        parts.append(drawing.heading(y + TEXT, row.label, row.note))
        total, x = sum(row.parts.values()) or 1.0, 0.0
        for name, value in row.parts.items():
            width = scale(value)
            hint = f"{row.label}: {name} {form(value)}, {value / total:.1%}"
            parts.append(drawing.rectangle(x, y + TEXT + 5, width, BAR, name, hint))
            x += width
    return drawing.svg(bottom + 2 * TEXT + 14, title, description, join(*parts))
