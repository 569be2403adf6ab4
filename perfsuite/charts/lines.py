"""Lines over a common pair of axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfsuite.charts import drawing
from perfsuite.charts.drawing import RIGHT, TEXT, WIDTH, Entry, Format
from perfsuite.charts.markup import Markup, join
from perfsuite.charts.scale import Scale, around

STYLES = ("one", "two", "three", "four", "five", "six")
HEIGHT = 230.0


@dataclass(frozen=True)
class Line:
    """``points`` as x and y."""

    label: str
    points: Sequence[tuple[float, float]]


def lines(
    curves: Sequence[Line],
    *,
    title: str,
    description: str,
    x_unit: str,
    y_unit: str,
    x_form: Format,
    y_form: Format,
    log: bool = True,
) -> Markup:
    """Curves with a dot per point, on two logarithmic axes unless ``log`` is false."""
    entries = [Entry(style_of(number), curve.label) for number, curve in enumerate(curves)]
    key, top = drawing.legend(entries, 0)
    top += 2 * TEXT
    bottom = top + HEIGHT
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    up = Scale(*around(ys, log=log), bottom, top, log)
    left = drawing.left_of(up, y_form)
    across = Scale(*around(xs, log=log), left, WIDTH - RIGHT, log)
    parts: list[str] = [
        key,
        drawing.vertical_axis(up, left, WIDTH - RIGHT, y_form, y_unit),
        drawing.horizontal_axis(across, top, bottom, x_form, x_unit),
    ]
    for number, curve in enumerate(curves):
        style = style_of(number)
        parts.append(drawing.path([(across(x), up(y)) for x, y in curve.points], style))
        parts += [
            drawing.dot(across(x), up(y), style, f"{curve.label}: {x_form(x)}, {y_form(y)}")
            for x, y in curve.points
        ]
    return drawing.svg(bottom + 2 * TEXT + 14, title, description, join(*parts))


def style_of(number: int) -> str:
    """The class of a curve, by its place."""
    return STYLES[number % len(STYLES)]
