"""The parts of a chart: its frame, axes with units, legend, and what can be read instead of seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import count

from perfsuite.charts.markup import Markup, element, join
from perfsuite.charts.scale import Scale

WIDTH = 440.0  # user units; text is 13 of them high, which a telephone's width leaves legible
RIGHT = 12.0
TEXT = 13.0
CHARACTER = 8.0  # about as wide as one is, in a wide font
BOLD = 1.15  # times as wide
_ids = count(1)

Format = Callable[[float], str]


@dataclass(frozen=True)
class Entry:
    """A line of the legend: the style's class, and what it stands for."""

    style: str
    label: str


def svg(height: float, title: str, description: str, *parts: str) -> Markup:
    """A picture WIDTH wide. ``title`` and ``description`` are what a screen reader says of it."""
    name = f"chart{next(_ids)}"
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        xmlns="http://www.w3.org/2000/svg",
    )


def standalone(picture: Markup) -> str:
    """A picture as a file of its own, with the colours that a page would lend it."""
    rules = files("perfsuite.charts").joinpath("charts.css").read_text(encoding="utf-8")
    style = f"<style>{rules} svg{{background:var(--page);font-family:sans-serif}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda found: found[1] + style, picture, count=1) + "\n"


def text(
    x: float, y: float, words: str, *, anchor: str = "start", style: str | None = None
) -> Markup:
    """Words whose baseline is at ``y``."""
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=style)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def rectangle(
    x: float, y: float, width: float, height: float, style: str, hint: str = ""
) -> Markup:
    """A rectangle; ``hint`` is shown when it is pointed at."""
    shown = element("title", hint) if hint else None
    return element("rect", shown, x=x, y=y, width=max(0.0, width), height=height, class_=style)


def dot(x: float, y: float, style: str, hint: str = "", radius: float = 3.5) -> Markup:
    """A dot; ``hint`` is shown when it is pointed at."""
    return element(
        "circle", element("title", hint) if hint else None, cx=x, cy=y, r=radius, class_=style
    )


def dots(points: Sequence[tuple[float, float]], style: str) -> Markup:
    """Small dots, many of them in little space."""
    return element(
        "path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in points), class_=f"dots {style}"
    )


def path(points: Sequence[tuple[float, float]], style: str) -> Markup:
    """A line through ``points``."""
    route = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=route, class_=f"line {style}")


def horizontal_axis(scale: Scale, top: float, bottom: float, form: Format, unit: str) -> Markup:
    """Grid lines from ``top`` to ``bottom``, figures below them, and the unit below those."""
    parts = []
    free = 0.0  # figures that would touch the one before are left out
    for tick in scale.ticks():
        x = scale(tick)
        label = form(tick)
        room = len(label) * CHARACTER
        parts.append(line(x, top, x, bottom, "grid"))
        anchor, left = "middle", x - room / 2
        if left < 0:
            anchor, left, x = "start", 0.0, 0.0
        elif left + room > WIDTH:
            anchor, left, x = "end", WIDTH - room, WIDTH
        if left >= free:
            parts.append(text(x, bottom + TEXT + 3, label, anchor=anchor, style="tick"))
            free = left + room + CHARACTER
    middle = (scale.start + scale.end) / 2
    parts.append(text(middle, bottom + 2 * TEXT + 8, unit, anchor="middle", style="unit"))
    return join(*parts)


def vertical_axis(scale: Scale, left: float, right: float, form: Format, unit: str) -> Markup:
    """Grid lines from ``left`` to ``right``, figures left of them, and the unit above."""
    parts = [text(0, scale.end - 10, unit, style="unit")]
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(line(left, y, right, y, "grid"))
        parts.append(text(left - 6, y + 4, form(tick), anchor="end", style="tick"))
    return join(*parts)


def left_of(scale: Scale, form: Format) -> float:
    """Where a plot begins whose vertical axis has these figures."""
    return 10 + CHARACTER * max(len(form(tick)) for tick in scale.ticks())


def legend(entries: Sequence[Entry], y: float) -> tuple[Markup, float]:
    """Entries in rows from ``y`` on, and the ``y`` below them."""
    parts: list[str] = []
    x = 0.0
    for entry in entries:
        label = shortened(entry.label, WIDTH - 22)
        width = 22 + len(label) * CHARACTER
        if x and x + width > WIDTH:
            x, y = 0.0, y + TEXT + 7
        parts += [
            element("rect", x=x, y=y + 2, width=12, height=12, class_=f"key {entry.style}"),
            text(x + 17, y + 12, label),
        ]
        x += width + 10
    return join(*parts), y + TEXT + 7


def heading(y: float, label: str, note: str) -> Markup:
    """A row's label at the left and its note at the right, with their baseline at ``y``."""
    note = shortened(note, WIDTH * 0.6)
    room = WIDTH - (len(note) + 1) * CHARACTER
    return join(
        text(0, y, shortened(label, room / BOLD), style="strong"),
        text(WIDTH, y, note, anchor="end"),
    )


def shortened(words: str, room: float) -> str:
    """``words`` as far as they fit into ``room``; the middle is what is left out."""
    most = max(3, int(room / CHARACTER))
    if len(words) <= most:
        return words
    head = (most - 1) // 2
    return f"{words[:head]}…{words[len(words) - (most - 1 - head) :]}"
