"""A row per figure: its value as a dot and its interval as a line through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from perfsuite.charts import drawing
from perfsuite.charts.drawing import RIGHT, TEXT, WIDTH, Entry, Format
from perfsuite.charts.markup import Markup, join
from perfsuite.charts.scale import Scale, around

ROW = 44.0


@dataclass(frozen=True)
class IntervalRow:
    """``value`` within ``low`` to ``high``; ``others`` are drawn hollow beside it, by their style.

    ``band`` is what is allowed, shaded behind it as far as the axis goes.
    """

    label: str
    value: float
    low: float
    high: float
    style: str = "one"
    note: str = ""
    others: dict[str, float] = field(default_factory=dict)
    band: tuple[float, float] | None = None


def intervals(
    rows: Sequence[IntervalRow],
    *,
    title: str,
    description: str,
    unit: str,
    form: Format,
    log: bool = False,
    zero: float | None = None,
    key: Sequence[Entry] = (),
) -> Markup:
    """Rows over one common axis in ``unit``; ``zero`` is a value whose line is drawn through all."""
    values = [zero] if zero is not None else []
    for row in rows:
        values += [row.value, row.low, row.high, *row.others.values()]
    scale = Scale(*around(values, log=log), 8, WIDTH - RIGHT, log)
    shown, top = drawing.legend(key, 0) if key else (Markup(), 0.0)
    bottom = top + 4 + len(rows) * ROW
    parts: list[str] = [shown, drawing.horizontal_axis(scale, top + 4, bottom, form, unit)]
    for number, row in enumerate(rows):
        y = top + 4 + number * ROW
        parts += _row(row, scale, y, form)
    if zero is not None:
        parts.append(drawing.line(scale(zero), top + 4, scale(zero), bottom, "zero"))
    return drawing.svg(bottom + 2 * TEXT + 14, title, description, join(*parts))


def _row(row: IntervalRow, scale: Scale, y: float, form: Format) -> list[str]:
    middle = y + TEXT + 15
    parts: list[str] = []
    if row.band is not None:
        left, right = scale(row.band[0]), scale(row.band[1])
        parts.append(drawing.rectangle(left, y + TEXT + 6, right - left, 18, "band"))
    hint = f"{row.label}: {form(row.value)} [{form(row.low)}, {form(row.high)}]"
    parts += [
        drawing.heading(y + TEXT, row.label, row.note),
        drawing.line(scale(row.low), middle, scale(row.high), middle, f"range {row.style}"),
        drawing.dot(scale(row.value), middle, row.style, hint, radius=5),
    ]
    for style, value in row.others.items():
        parts.append(
            drawing.dot(scale(value), middle, f"hollow {style}", f"{row.label}: {form(value)}", 8)
        )
    return parts
