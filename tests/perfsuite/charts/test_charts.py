from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.charts import drawing, units
from perfsuite.charts.drawing import WIDTH, Entry
from perfsuite.charts.intervals import IntervalRow, intervals
from perfsuite.charts.lines import Line, lines
from perfsuite.charts.markup import Markup, element, escape, join
from perfsuite.charts.scale import Scale, around
from perfsuite.charts.stacked_bars import StackedRow, stacked_bars

SVG = "{http://www.w3.org/2000/svg}"


def parsed(picture: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314 - our own


def test_text_is_escaped_and_markup_is_not() -> None:
    made = element("p", "a < b", element("b", "&"), None, class_='x"y', data_value=1.50)
    assert made == '<p class="x&quot;y" data-value="1.5">a &lt; b<b>&amp;</b></p>'
    assert element("meta", charset="utf-8", name=None) == '<meta charset="utf-8">'
    assert join("<", Markup("<br>")) == "&lt;<br>"


@given(st.text(st.characters(codec=None)))
def test_any_text_stays_text(text: str) -> None:
    made = element("p", text, title=text)
    made.encode("utf-8")
    root = parsed(made)
    assert len(root) == 0
    assert set(root.attrib) == {"title"}


def test_what_no_file_can_hold_is_replaced() -> None:
    assert escape("a\x00\ud800b") == "a\ufffd\ufffdb"


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.booleans())
def test_ticks_lie_on_the_axis_in_order(one: float, other: float, log: bool) -> None:
    scale = Scale(*around([one, other], log=log), 0, 100, log)
    ticks = scale.ticks()
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 12
    places = [scale(tick) for tick in ticks]
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    assert places == sorted(places)


def test_a_scale_maps_its_ends_and_holds_what_lies_outside() -> None:
    scale = Scale(10, 1000, 0, 300, log=True)
    assert [scale(value) for value in (1, 10, 100, 1000, 9999)] == pytest.approx(
        [0, 0, 150, 300, 300]
    )
    assert Scale(0, 10, 100, 0)(2.5) == 75
    assert Scale(3, 3, 0, 10)(3) == 5


@pytest.mark.parametrize(
    ("ends", "log", "ticks"),
    [
        ((0, 10), False, [0, 2, 4, 6, 8, 10]),
        ((-0.1, 0.33), False, [-0.1, 0, 0.1, 0.2, 0.3]),
        ((1, 1000), True, [1, 10, 100, 1000]),
        ((0.9, 7), True, [1, 2, 5]),
    ],
)
def test_ticks_are_round(ends: tuple[float, float], log: bool, ticks: list[float]) -> None:
    assert Scale(*ends, 0, 1, log).ticks() == pytest.approx(ticks, abs=1e-12)


def test_figures_have_three_digits_and_their_unit() -> None:
    assert [units.seconds(value) for value in (0, 2.5e-9, 3.5e-5, 0.01234, 0.99999, 12)] == [
        "0",
        "2.5 ns",
        "35 us",
        "12.3 ms",
        "1 s",
        "12 s",
    ]
    assert [units.size(value) for value in (1, 1e3, 999_900, 1.34e8, 7.5e9)] == [
        "1 B",
        "1 KB",
        "1 MB",
        "134 MB",
        "7.5 GB",
    ]


def test_bars_are_as_long_as_their_parts() -> None:
    rows = [
        StackedRow("one", {"device": 1.0, "trusted": 3.0}),
        StackedRow("two", {"device": 2.0, "trusted": 0.0}),
    ]
    root = parsed(
        stacked_bars(rows, title="t", description="d", unit="u", form=lambda value: f"{value:g}")
    )
    bars = [bar for bar in root.iter(f"{SVG}rect") if "key" not in bar.attrib["class"]]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.02)
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.02)
    assert widths[3] == 0
    assert float(bars[1].attrib["x"]) == pytest.approx(widths[0], abs=0.02)
    title = bars[1].find(f"{SVG}title")
    assert title is not None
    assert title.text == "one: trusted 3, 75.0%"


def test_an_interval_reaches_from_end_to_end() -> None:
    row = IntervalRow("one", 1.1, 1.0, 1.3, others={"two": 1.2}, band=(0.5, 3.0))
    root = parsed(
        intervals(
            [row],
            title="t",
            description="d",
            unit="u",
            form=lambda value: f"{value:g}",
            zero=1.0,
            key=[Entry("one", "measured")],
        )
    )
    (reach,) = [line for line in root.iter(f"{SVG}line") if "range" in line.attrib["class"]]
    value, other = root.iter(f"{SVG}circle")
    left, right = float(reach.attrib["x1"]), float(reach.attrib["x2"])
    assert left < float(value.attrib["cx"]) < float(other.attrib["cx"]) < right
    (zero,) = [line for line in root.iter(f"{SVG}line") if line.attrib["class"] == "zero"]
    assert float(zero.attrib["x1"]) == pytest.approx(left)


def test_lines_rise_with_their_values() -> None:
    curve = Line("one", [(1.0, 10.0), (10.0, 100.0), (100.0, 1000.0)])
    root = parsed(
        lines(
            [curve],
            title="t",
            description="d",
            x_unit="x",
            y_unit="y",
            x_form=units.size,
            y_form=units.size,
        )
    )
    dots = list(root.iter(f"{SVG}circle"))
    xs = [float(dot.attrib["cx"]) for dot in dots]
    ys = [float(dot.attrib["cy"]) for dot in dots]
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.02)


def test_a_picture_of_its_own_brings_its_colours() -> None:
    picture = drawing.svg(100, "title & more", "words", drawing.text(0, 10, "x"))
    alone = drawing.standalone(picture)
    root = ElementTree.fromstring(alone)  # noqa: S314 - our own
    assert root.find(f"{SVG}style") is not None
    assert root.findtext(f"{SVG}title") == "title & more"
    assert root.attrib["viewBox"] == f"0 0 {WIDTH:g} 100"


def test_two_pictures_of_a_page_share_no_name() -> None:
    made = drawing.svg(1, "t", "d") + drawing.svg(1, "t", "d")
    names = re.findall(r' id="([^"]+)"', made)
    assert len(names) == len(set(names)) == 4


def test_long_words_lose_their_middle() -> None:
    assert drawing.shortened("short", 100) == "short"
    shortened = drawing.shortened("a" * 50 + "z" * 50, 80)
    assert len(shortened) == 10
    assert re.fullmatch("a+…z+", shortened)
