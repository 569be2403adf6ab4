from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perfsuite import charts
from perfsuite.charts import (
    HINTED,
    WIDTH,
    Entry,
    IntervalRow,
    Mark,
    Panel,
    StackedRow,
    Words,
    around,
    ticks,
)
from perfsuite.units import size

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</svg><script>alert(1)</script>$x^2_ \"'&\ud800\x00\n\u6f22"


def words(name: str = "one", text: str = "words") -> Words:
    return Words(name, text, text)


def plain(value: float) -> str:
    return f"{value:g}"


def panel(values: list[float], *marks: Mark, text: str = "words") -> Panel:
    return Panel(
        title=text,
        subtitle=text,
        unit="ms",
        values=values,
        levels=[1.0] * len(values),
        spread=0.01,
        marks=marks,
        hints=[text] * len(values),
        ends=(text, text),
        form=lambda places: [f"{place:.3f}" for place in places],
    )


def pictures(text: str = "words") -> dict[str, str]:
    """Each kind of picture, with ``text`` wherever a user's may stand."""
    row = IntervalRow(text, 1.1, 1.0, 1.3, "one", text, {"two": 1.2}, band=(0.5, 3.0))
    curve = {text: [(1.0, 10.0), (10.0, 100.0)]}
    stack = StackedRow(text, {"device": 1.0}, text)
    key = [Entry("one", text), Entry("two", text, hollow=True)]
    said, form = words(text=text), plain
    mark = Mark(2, "bad", text)
    return {
        "intervals": charts.intervals([row], said, unit=text, form=form, zero=1.0, key=key),
        "stacked": charts.stacked_bars([stack], said, unit=text, form=form),
        "lines": charts.lines(curve, said, x_unit=text, y_unit="s", x_form=size, y_form=form),
        "panels": charts.panels([panel([1.0, 1.1, 1.0, 1.2], mark, text=text)], said),
    }


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314 - our own


def marks(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """What can be pointed at, by what it says."""
    found = {one: one.find(f"{SVG}title") for one in root.iter() if one is not root}
    return {title.text or "": one for one, title in found.items() if title is not None}


def places(element: ElementTree.Element) -> list[tuple[float, float]]:
    """The points of a path."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", element.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.mark.parametrize("kind", ["intervals", "stacked", "lines", "panels"])
def test_a_picture_can_be_read_instead_of_seen(kind: str) -> None:
    root = parsed(pictures("title & more")[kind])
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "one-title one-desc"
    title, description = root[0], root[1]
    assert (title.tag, title.text) == (f"{SVG}title", "title & more")
    assert (description.tag, description.text) == (f"{SVG}desc", "title & more")
    assert root.attrib["viewBox"].startswith(f"0 0 {WIDTH:g} ")
    assert [one for one in root.iter(f"{SVG}text") if one.text == "title & more"]


@pytest.mark.parametrize("kind", ["intervals", "stacked", "lines", "panels"])
def test_colours_are_variables_of_the_page(kind: str) -> None:
    picture = pictures()[kind]
    assert re.search(r"#[0-9a-f]{6}", re.sub(r'(id|href)="[^"]*"', "", picture)) is None
    known = set(re.findall(r"(--[\w-]+):", charts.stylesheet()))
    used = set(re.findall(r"var\((--[\w-]+)\)", picture))
    assert used
    assert used <= known
    for foreign in ("url(", "<style", "font-family", "metadata", "clip-path"):
        assert foreign not in picture


@pytest.mark.parametrize("kind", ["intervals", "stacked", "lines", "panels"])
def test_no_text_becomes_markup_or_mathematics(kind: str) -> None:
    picture = pictures(HOSTILE)[kind]
    picture.encode("utf-8")
    tags = {one.tag for one in parsed(picture).iter()}
    assert f"{SVG}script" not in tags
    assert tags == {one.tag for one in parsed(pictures()[kind]).iter()}


def test_a_picture_drawn_twice_is_the_same_whatever_matplotlib_was_told() -> None:
    first = pictures()
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert pictures() == first


def test_two_pictures_of_a_page_share_no_name() -> None:
    rows = [StackedRow("one", {"device": 1.0})]
    made = [charts.stacked_bars(rows, words(name), unit="s", form=plain) for name in ("one", "two")]
    names = re.findall(r' id="([^"]+)"', "".join(made))
    assert names
    assert len(names) == len(set(names))
    for link in re.findall(r'href="#([^"]+)"', "".join(made)):
        assert link in names


def test_a_picture_of_its_own_brings_its_colours() -> None:
    root = parsed(charts.standalone(pictures()["lines"]))
    style = root.find(f"{SVG}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in (style.text or "")
    assert root.findtext(f"{SVG}title") == "words"


def test_bars_are_as_long_as_their_parts() -> None:
    rows = [
        StackedRow("one", {"device": 1.0, "trusted": 3.0}),
        StackedRow("two", {"device": 2.0, "trusted": 0.0}),
    ]
    bars = marks(parsed(charts.stacked_bars(rows, words(), unit="u", form=plain)))
    assert "one: trusted 3, 75.0%" in bars
    ends = []
    for bar in bars.values():
        across = [x for x, _ in places(bar)]
        ends.append((min(across), max(across)))
    lengths = [right - left for left, right in ends]
    assert lengths[1] == pytest.approx(3 * lengths[0], abs=0.05)
    assert lengths[2] == pytest.approx(2 * lengths[0], abs=0.05)
    assert lengths[3] == 0
    assert ends[1][0] == pytest.approx(ends[0][1], abs=0.02)


def test_an_interval_reaches_from_end_to_end() -> None:
    row = IntervalRow("one", 1.1, 1.0, 1.3, others={"two": 1.2}, band=(0.5, 3.0))
    root = parsed(charts.intervals([row], words(), unit="u", form=plain, zero=1.0))
    value, other = (float(one.attrib["x"]) for one in marks(root).values())
    assert list(marks(root)) == ["one: 1.1 [1, 1.3]", "one: 1.2"]
    paths = [one for one in root.iter(f"{SVG}path") if "style" in one.attrib]
    (reach,) = [one for one in paths if "stroke-width: 2.5" in one.attrib["style"]]
    (left, _), (right, _) = places(reach)
    assert left < value < other < right
    (zero,) = [one for one in paths if "stroke-width: 1.5" in one.attrib["style"]]
    assert places(zero)[0][0] == pytest.approx(left, abs=0.02)
    (band,) = [one for one in paths if "opacity: 0.55" in one.attrib["style"]]
    assert min(x for x, _ in places(band)) < left
    assert max(x for x, _ in places(band)) <= WIDTH


def test_lines_rise_with_their_values() -> None:
    curve = {"one": [(1.0, 10.0), (10.0, 100.0), (100.0, 1000.0)]}
    picture = charts.lines(curve, words(), x_unit="x", y_unit="y", x_form=size, y_form=size)
    dots = marks(parsed(picture))
    assert list(dots) == ["one: 1 B, 10 B", "one: 10 B, 100 B", "one: 100 B, 1 KB"]
    xs = [float(dot.attrib["x"]) for dot in dots.values()]
    ys = [float(dot.attrib["y"]) for dot in dots.values()]
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.02)


def test_a_panel_shows_runs_levels_and_changes() -> None:
    shown = panel([1.0, 1.0, 1.1, 1.1], Mark(2, "bad", "+10.0%"))
    root = parsed(charts.panels([shown, shown], words()))
    assert [one.text for one in root.iter(f"{SVG}text")].count("+10.0%") == 2
    paths = [one.attrib.get("style", "") for one in root.iter(f"{SVG}path")]
    assert len([rules for rules in paths if "stroke-dasharray" in rules]) == 2
    levels = [rules for rules in paths if "var(--two)" in rules and "2.5" in rules]
    assert len(levels) == 4
    bands = [one for one in root.iter() if "opacity: 0.2" in one.attrib.get("style", "")]
    assert len(bands) >= 4


def test_very_many_runs_take_little_space() -> None:
    few, many = (
        len(charts.panels([panel([1.0 + 0.01 * (n % 7) for n in range(count)])], words()))
        for count in (HINTED, 5000)
    )
    assert many < few + 5000 * 70


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0]])
def test_runs_without_any_spread_are_drawn(values: list[float]) -> None:
    assert "words" in charts.panels([panel(values)], words())


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.booleans())
@example(1e6, 999_999.999_999_999_9, False)
@example(1e6, 999_999.999, False)
def test_ticks_lie_on_the_axis_in_order(one: float, other: float, log: bool) -> None:
    low, high = around([one, other], log=log)
    found = ticks(low, high, log=log)
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 12
    assert low == pytest.approx(min(low, found[0]))
    assert high == pytest.approx(max(high, found[-1]))


@pytest.mark.parametrize(
    ("ends", "log", "expected"),
    [
        ((0, 10), False, [0, 2, 4, 6, 8, 10]),
        ((-0.1, 0.33), False, [-0.1, 0, 0.1, 0.2, 0.3]),
        ((1, 1000), True, [1, 10, 100, 1000]),
        ((0.9, 7), True, [1, 2, 5]),
    ],
)
def test_ticks_are_round(ends: tuple[float, float], log: bool, expected: list[float]) -> None:
    assert ticks(*ends, log=log) == pytest.approx(expected, abs=1e-12)


def test_long_words_lose_their_middle() -> None:
    assert charts.shortened("short", 100) == "short"
    shortened = charts.shortened("a" * 50 + "z" * 50, 80)
    assert len(shortened) == 10
    assert re.fullmatch("a+…z+", shortened)


def test_what_no_file_can_hold_is_replaced() -> None:
    assert charts.clean("a\x00\ud800b") == "a\ufffd\ufffdb"
