"""Charts as SVG, drawn by matplotlib: text stays text, and a colour is a variable of ``charts.css``.

A page's dark mode holds for them, therefore. Whoever imports this needs the extra ``report``. Lengths are in the
picture's own units, of which text is TEXT high and the picture WIDTH wide: legible at a telephone's width.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

WIDTH = 440.0
TEXT = 13.0
HINTED = 120  # marks of a series; hints on more would make the page large
ROW, BAR = 44.0, 18.0
LINES, PANEL = 230.0, 130.0  # heights of plots
SERIES = ("one", "two", "three", "four", "five", "six")

_CHARACTER = 8.0  # about as wide as one is
_BOLD = 1.15  # times as wide
_SIDE = 12.0  # left and right of a plot
_FOOT = 2 * TEXT + 14  # for the figures and the unit below a plot
_LEGEND_ROW = 20.0
_AIR = 4.0  # above a legend: letters are higher than matplotlib takes them to be
_KEY = 32.0  # a legend's square, and what lies around it and its label
_PARTS = ("serialize", "transport", "device", "deserialize", "trusted", "unsplit")
_MEANINGS = ("ink", "soft", "rule", "good", "bad", "unsure", "better")
# What matplotlib draws in is no colour, but tells afterwards which variable is meant.
_DRAWN = {name: f"#{place:06x}" for place, name in enumerate(SERIES + _PARTS + _MEANINGS, 1)}
_VARIABLES = {colour: f"var(--{name})" for name, colour in _DRAWN.items()}
_LOOK: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "perfsuite",  # the same picture twice is the same file
    "text.parse_math": False,
    "font.size": TEXT,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.labelcolor": _DRAWN["soft"],
    "axes.labelpad": 2,
    **{f"axes.spines.{side}": False for side in ("left", "bottom", "right", "top")},
    "grid.color": _DRAWN["rule"],
    "grid.linewidth": 1,
    "lines.linewidth": 2,
    "lines.markeredgewidth": 0,
    "lines.solid_capstyle": "round",
    "text.color": _DRAWN["ink"],
    "xtick.bottom": False,
    "xtick.color": _DRAWN["soft"],
    "xtick.major.pad": 4,
    "ytick.left": False,
    "ytick.color": _DRAWN["soft"],
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "legend.columnspacing": 1,
    "legend.frameon": False,
    "legend.handlelength": 1,
    "legend.handletextpad": 0.4,
}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_LEFT_OUT = {f"{_SVG}{name}" for name in ("metadata", "style", "clipPath")}
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font-family: [^;]*;? ?")  # the page's own is what suits it
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_NARROW = 1e-9  # of the largest value
# What XML does not allow, escaped or not; a lone surrogate cannot even be written to a file.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

Format = Callable[[float], str]
ElementTree.register_namespace("", _SVG[1:-1])


@dataclass(frozen=True)
class Words:
    """What can be read instead of seen. The ids inside begin with ``name``, which a page has once."""

    name: str
    title: str
    description: str


@dataclass(frozen=True)
class Entry:
    """A line of the legend: a variable's name, and what it stands for; ``hollow`` as its marks are."""

    colour: str
    label: str
    hollow: bool = False


@dataclass(frozen=True)
class IntervalRow:
    """``value`` within ``low`` to ``high``; ``others`` are drawn hollow beside it, by their colour.

    ``band`` is what is allowed, shaded behind it as far as the axis goes.
    """

    label: str
    value: float
    low: float
    high: float
    colour: str = "one"
    note: str = ""
    others: Mapping[str, float] = field(default_factory=dict)
    band: tuple[float, float] | None = None


@dataclass(frozen=True)
class StackedRow:
    """``parts`` by their colour, which is also their name; ``note`` stands at the right, above the bar."""

    label: str
    parts: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """A change before the value at ``place``."""

    place: int
    colour: str
    label: str


@dataclass(frozen=True)
class Panel:
    """A series: a value per run, the level that it is on, and the marks where that changes.

    ``spread`` is the noise's standard deviation as a share of the level. ``hints`` has a word per value, ``ends``
    one for the first and one for the last; ``form`` writes all figures of the axis.
    """

    title: str
    subtitle: str
    unit: str
    values: Sequence[float]
    levels: Sequence[float]
    spread: float
    marks: Sequence[Mark]
    hints: Sequence[str]
    ends: tuple[str, str]
    form: Callable[[Sequence[float]], Sequence[str]]


@contextmanager
def _look() -> Iterator[None]:
    """Draw alike everywhere, whatever matplotlib was told in a file of its own."""
    with style.context(_LOOK, after_reset=True), warnings.catch_warnings():
        # Text is measured with matplotlib's font; the browser has one for every script.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing")
        yield


@_look()
def intervals(
    rows: Sequence[IntervalRow],
    words: Words,
    *,
    unit: str,
    form: Format,
    log: bool = False,
    zero: float | None = None,
    key: Sequence[Entry] = (),
) -> str:
    """Rows over one common axis in ``unit``; ``zero`` is a value whose line is drawn through all."""
    values = [] if zero is None else [zero]
    for row in rows:
        values += [row.value, row.low, row.high, *row.others.values()]
    ends = around(values, log=log)
    drawing, axes = _rows([(row.label, row.note) for row in rows], key, ends, unit, form, log=log)
    for number, row in enumerate(rows):
        y, colour = number * ROW + TEXT + 15, _DRAWN[row.colour]
        if row.band is not None:
            left, right = max(row.band[0], ends[0]), min(row.band[1], ends[1])
            rule = _DRAWN["rule"]
            axes.barh(y, right - left, BAR, left=left, color=rule, alpha=0.55, linewidth=0)
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.5)
        dots = axes.plot([row.value], [y], "o", color=colour, markersize=10)
        hint = f"{row.label}: {form(row.value)} [{form(row.low)}, {form(row.high)}]"
        drawing.hint(dots[0], [hint])
        for name, value in row.others.items():
            dots = axes.plot([value], [y], "o", mfc="none", mec=_DRAWN[name], mew=2, markersize=16)
            drawing.hint(dots[0], [f"{row.label}: {form(value)}"])
    if zero is not None:
        axes.axvline(zero, color=_DRAWN["soft"], linewidth=1.5)
    return drawing.svg(words)


@_look()
def stacked_bars(rows: Sequence[StackedRow], words: Words, *, unit: str, form: Format) -> str:
    """Bars over one common axis in ``unit``; the legend calls the parts by their names."""
    key = [Entry(name, name) for name in dict.fromkeys(name for row in rows for name in row.parts)]
    longest = max(sum(row.parts.values()) for row in rows) or 1.0
    headings = [(row.label, row.note) for row in rows]
    drawing, axes = _rows(headings, key, (0.0, longest), unit, form)
    for number, row in enumerate(rows):
        total, x, y = sum(row.parts.values()) or 1.0, 0.0, number * ROW + TEXT + 14
        for name, value in row.parts.items():
            bar = axes.barh(y, value, BAR, left=x, color=_DRAWN[name], linewidth=0)
            hint = f"{row.label}: {name} {form(value)}, {value / total:.1%}"
            drawing.hint(bar.patches[0], [hint])
            x += value
    return drawing.svg(words)


@_look()
def lines(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    words: Words,
    *,
    x_unit: str,
    y_unit: str,
    x_form: Format,
    y_form: Format,
) -> str:
    """Curves by what they are called, x and y of each point, on two logarithmic axes."""
    key = [Entry(SERIES[place % len(SERIES)], label) for place, label in enumerate(curves)]
    top = _legend_height(key) + 2 * TEXT
    drawing = _Drawing(top + LINES + _FOOT)
    drawing.legend(key)
    xs, ys = ([point[axis] for points in curves.values() for point in points] for axis in (0, 1))
    ends = around(ys, log=True)
    axes = drawing.plot(
        top, LINES, ends, y_unit, lambda places: list(map(y_form, places)), log=True
    )
    drawing.across(axes, around(xs, log=True), x_unit, x_form, log=True)
    for entry, (label, points) in zip(key, curves.items(), strict=True):
        dots = axes.plot(*zip(*points, strict=True), "o-", color=_DRAWN[entry.colour], markersize=7)
        drawing.hint(dots[0], [f"{label}: {x_form(x)}, {y_form(y)}" for x, y in points])
    return drawing.svg(words)


@_look()
def panels(series: Sequence[Panel], words: Words) -> str:
    """A plot per series, below one another: runs, levels with what noise does to 95 % of the runs, changes."""
    each = PANEL + 5 * TEXT + 30
    drawing = _Drawing(max(1, len(series)) * each)
    for number, one in enumerate(series):
        _panel(drawing, one, number * each)
    return drawing.svg(words)


def standalone(picture: str) -> str:
    """A picture as a file of its own, with the colours that a page would lend it."""
    rules = f"{stylesheet()}svg{{background:var(--page);font-family:sans-serif}}"
    start = picture.index(">") + 1
    return f"{picture[:start]}<style>{rules}</style>{picture[start:]}\n"


def stylesheet() -> str:
    """The colours in light and in dark, and how a chart's text is set off."""
    return files("perfsuite").joinpath("charts.css").read_text(encoding="utf-8")


def clean(text: str) -> str:
    """``text`` without what no file of XML may hold."""
    return _FORBIDDEN.sub("\ufffd", text)


def shortened(words: str, room: float) -> str:
    """``words`` in a line, as far as they fit into ``room``; the middle is what is left out."""
    words = " ".join(clean(words).split())
    most = max(3, int(room / _CHARACTER))
    if len(words) <= most:
        return words
    head = (most - 1) // 2
    return f"{words[:head]}…{words[len(words) - (most - 1 - head) :]}"


def around(values: Sequence[float], *, log: bool = False) -> tuple[float, float]:
    """Ends of an axis that holds ``values`` with some air."""
    low, high = min(values), max(values)
    if log:
        factor = max((high / low) ** 0.06, 1.05)
        return low / factor, high * factor
    largest = max(abs(low), abs(high))
    # What differs by less than floats can divide is drawn as one value is.
    narrow = high - low <= largest * _NARROW
    air = (largest * 0.1 or 1.0) if narrow else (high - low) * 0.08
    return low - air, high + air


def ticks(low: float, high: float, *, log: bool = False) -> list[float]:
    """Round values from ``low`` to ``high``, at least two and some five of them."""
    slack = (low if log else high - low) * 1e-9  # what adds up to an end may miss it by a rounding
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) if log else ()
    factors = (1, 2, 5) if log and high < 100 * low else (1,)
    on_log = [factor * 10.0**power for power in powers for factor in factors]
    linear = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    found, otherwise = (
        [v for v in map(float, ends) if low - slack <= v <= high + slack]
        for ends in (on_log, linear)
    )
    return found[:: math.ceil(len(found) / 7)] if len(found) > 1 else otherwise


class _Drawing:
    """A picture of WIDTH by ``height``; places are counted from its left and its top."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH / 72, height / 72))
        self._hints: dict[str, Sequence[str]] = {}

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        """Words whose baseline is at ``y``."""
        self.figure.text(x / WIDTH, 1 - y / self.height, words, va="baseline", **how)

    def hint(self, artist: Artist, hints: Sequence[str]) -> None:
        """Say of each mark of ``artist`` what is shown when it is pointed at."""
        name = f"hint{len(self._hints)}"
        artist.set_gid(name)
        self._hints[name] = hints

    def legend(self, key: Sequence[Entry]) -> None:
        """What the colours stand for, at the top."""
        if key:
            self.figure.legend(
                [_key(entry) for entry in key],
                [shortened(entry.label, WIDTH - _KEY) for entry in key],
                loc="upper left",
                bbox_to_anchor=(0, 1 - _AIR / self.height),
                ncols=_columns(key),
            )

    def axes(self, left: float, top: float, height: float) -> Axes:
        """An empty plot that reaches to the right side."""
        width = (WIDTH - _SIDE - left) / WIDTH
        bottom = 1 - (top + height) / self.height
        return self.figure.add_axes((left / WIDTH, bottom, width, height / self.height))

    def plot(
        self,
        top: float,
        height: float,
        ends: tuple[float, float],
        unit: str,
        form: Callable[[Sequence[float]], Sequence[str]],
        *,
        log: bool = False,
    ) -> Axes:
        """A plot with figures left of it, and their unit above those."""
        places = ticks(*ends, log=log)
        labels = form(places)
        axes = self.axes(10 + _CHARACTER * max(map(len, labels)), top, height)
        axes.set_yscale("log" if log else "linear")
        axes.set_ylim(*ends)
        axes.set_yticks(places, labels)
        axes.minorticks_off()
        axes.grid(axis="y")
        self.text(0, top - 10, unit, color=_DRAWN["soft"])
        return axes

    def across(
        self, axes: Axes, ends: tuple[float, float], unit: str, form: Format, *, log: bool = False
    ) -> None:
        """Give ``axes`` figures below it, as many as do not touch, and the unit below those."""
        axes.set_xscale("log" if log else "linear")
        axes.set_xlim(*ends)
        places = ticks(*ends, log=log)
        widest = (max(len(form(place)) for place in places) + 1) * _CHARACTER
        room = axes.get_position().width * WIDTH
        places = places[:: math.ceil(len(places) * widest / (room + widest))]
        axes.set_xticks(places, [form(place) for place in places])
        axes.minorticks_off()
        axes.grid(axis="x")
        axes.set_xlabel(shortened(unit, room))
        for place, label in zip(places, axes.get_xticklabels(), strict=True):
            x = axes.get_xaxis_transform().transform((place, 0))[0]
            half = len(label.get_text()) * _CHARACTER / 2
            label.set_horizontalalignment(
                "left" if x < half else "right" if x + half > WIDTH else "center"
            )

    def svg(self, words: Words) -> str:
        """The picture as an element for a page."""
        file = BytesIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None})
        root = ElementTree.fromstring(file.getvalue())  # noqa: S314 - our own
        for element in list(root.iter()):
            for child in [child for child in element if child.tag in _LEFT_OUT]:
                element.remove(child)
            self._finish(element, words.name)
        titles = {"title": words.title, "desc": words.description}
        for place, (tag, text) in enumerate(titles.items()):
            element = ElementTree.Element(f"{_SVG}{tag}", id=f"{words.name}-{tag}")
            element.text = clean(text)
            root.insert(place, element)
        named = " ".join(f"{words.name}-{tag}" for tag in titles)
        view = root.attrib["viewBox"]
        root.attrib = {"viewBox": view, "role": "img", "aria-labelledby": named}
        return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)

    def _finish(self, element: ElementTree.Element, name: str) -> None:
        """Make an element of matplotlib's one of a page: variables for colours, ids that no other chart has."""
        attributes = element.attrib
        attributes.pop("clip-path", None)
        if (link := attributes.pop(_LINK, None)) is not None:
            attributes["href"] = f"#{name}-{link[1:]}"
        if (identity := attributes.get("id")) is not None:
            attributes["id"] = f"{name}-{identity}"
        if identity in self._hints:
            marks = list(element.iter(f"{_SVG}use")) or list(element.iter(f"{_SVG}path"))
            for mark, hint in zip(marks, self._hints[identity], strict=True):
                ElementTree.SubElement(mark, f"{_SVG}title").text = clean(hint)
        if (rules := attributes.get("style")) is not None:
            rules = _FONT.sub("", rules)
            attributes["style"] = _COLOUR.sub(lambda found: _VARIABLES[found[0]], rules)
        if (route := attributes.get("d")) is not None:
            attributes["d"] = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", route)


def _rows(
    headings: Sequence[tuple[str, str]],
    key: Sequence[Entry],
    ends: tuple[float, float],
    unit: str,
    form: Format,
    *,
    log: bool = False,
) -> tuple[_Drawing, Axes]:
    """A row per label and note, which stand above it; the vertical axis counts downwards from the top."""
    top, height = _legend_height(key) + 4, len(headings) * ROW
    drawing = _Drawing(top + height + _FOOT)
    drawing.legend(key)
    axes = drawing.axes(_SIDE, top, height)
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    drawing.across(axes, ends, unit, form, log=log)
    for number, (label, note) in enumerate(headings):
        y, right = top + number * ROW + TEXT, shortened(note, WIDTH * 0.6)
        room = (WIDTH - (len(right) + 1) * _CHARACTER) / _BOLD
        drawing.text(0, y, shortened(label, room), weight="bold")
        drawing.text(WIDTH, y, right, ha="right")
    return drawing, axes


def _panel(drawing: _Drawing, panel: Panel, top: float) -> None:
    values, levels, last = panel.values, panel.levels, len(panel.values) - 1
    noise = math.exp(1.96 * panel.spread)
    low, high = around([*values, max(levels) * noise, min(levels) / noise])
    ends = low, high + 0.15 * (high - low)  # room for what the marks say
    axes = drawing.plot(top + 3 * TEXT + 20, PANEL, ends, panel.unit, panel.form)
    air = max(1, last) * 6 / (axes.get_position().width * WIDTH - 12)
    axes.set_xlim(-air, max(1, last) + air)
    axes.set_xticks([])
    drawing.text(0, top + TEXT, shortened(panel.title, WIDTH / _BOLD), weight="bold")
    soft = _DRAWN["soft"]
    drawing.text(0, top + 2 * TEXT + 3, shortened(panel.subtitle, WIDTH), color=soft)
    first, final = (shortened(words, WIDTH / 2) for words in panel.ends)
    below = top + 3 * TEXT + 20 + PANEL + TEXT + 4
    drawing.text(0, below, first, color=soft)
    if last:
        drawing.text(WIDTH, below, final, ha="right", color=soft)
    axes.plot(values, color=_DRAWN["one"], alpha=0.45)
    if last < HINTED:
        dots = axes.plot(values, "o", color=_DRAWN["one"], markersize=5)
        drawing.hint(dots[0], panel.hints)
    else:
        axes.add_patch(_dots(values))
    for start, end in pairwise([0, *(mark.place for mark in panel.marks), last + 1]):
        reach, level, colour = [start, end - 1], levels[start], _DRAWN["two"]
        low, high = level / noise, level * noise
        axes.fill_between(reach, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(reach, [level, level], color=colour, linewidth=2.5)
    for mark in panel.marks:
        _draw_mark(axes, mark)


def _dots(values: Sequence[float]) -> PathPatch:
    """Small dots, many of them in little space: lines without a length, whose ends are round."""
    points = np.repeat(np.column_stack([np.arange(len(values)), values]), 2, axis=0)
    path = Path(points, [Path.MOVETO, Path.LINETO] * len(values))
    path.should_simplify = False
    return PathPatch(path, fill=False, edgecolor=_DRAWN["one"], linewidth=3, capstyle="round")


def _draw_mark(axes: Axes, mark: Mark) -> None:
    """A dashed line before the first run on the new level, with its label beside its upper end."""
    x, across = mark.place - 0.5, axes.get_xaxis_transform()
    axes.axvline(x, color=_DRAWN[mark.colour], linewidth=1.5, linestyle=(0, (3, 2)))
    label = shortened(mark.label, WIDTH / 4)
    right = across.transform((x, 1))[0] + len(label) * _CHARACTER > WIDTH
    axes.annotate(
        label,
        (x, 1),
        xycoords=across,
        xytext=(-3 if right else 3, -2),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top",
    )


def _key(entry: Entry) -> Line2D:
    colour = _DRAWN[entry.colour]
    if entry.hollow:
        return Line2D(
            [], [], linestyle="", marker="o", mfc="none", mec=colour, mew=2, markersize=10
        )
    return Line2D([], [], linestyle="", marker="s", markersize=11, color=colour)


def _columns(key: Sequence[Entry]) -> int:
    longest = max(len(shortened(entry.label, WIDTH - _KEY)) for entry in key)
    return max(1, min(len(key), int(WIDTH / (_KEY + longest * _CHARACTER))))


def _legend_height(key: Sequence[Entry]) -> float:
    return math.ceil(len(key) / _columns(key)) * _LEGEND_ROW + _AIR if key else 0.0
