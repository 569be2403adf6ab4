"""The page as a program sees it: well formed, complete, safe, and fit for a screen reader."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from perfsuite.__main__ import main
from perfsuite.charts import stylesheet

HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\ud800\x00|`"
SECTIONS = {
    "ladder": {"ladder", "speedup"},
    "diagnose": {"transports", "prediction", "what-if"},
    "gate": {"verdicts"},
    "storage": {"history"},
}
MakePage = Callable[..., str]


class Page(HTMLParser):
    """Collects the elements, and checks that each is closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.children: list[set[str]] = [set()]
        self.parents: list[tuple[str, set[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.children[-1].add(tag)
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)
            self.children.append(set())

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.parents.append((tag, self.children.pop()))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def with_children(self, tag: str) -> list[set[str]]:
        return [children for name, children in self.parents if name == tag]


def test_it_is_small_and_asks_for_nothing(make_page: MakePage) -> None:
    text = make_page()
    assert len(text.encode()) < 500_000
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {"script", "link", "img", "iframe", "object"}
    )
    for _, attributes in page.elements:
        assert not {"src", "srcset", "data", "onclick", "onerror"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text
    policy = page.named("meta")[1]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_it_can_be_navigated_without_eyes_or_mouse(make_page: MakePage) -> None:
    page = Page(make_page())
    assert page.named("html")[0]["lang"] == "en"
    assert page.named("meta")[2]["name"] == "viewport"
    for landmark in ("header", "nav", "main"):
        assert len(page.named(landmark)) == 1
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        named = (attributes.get("aria-labelledby") or "").split()
        assert set(named) <= set(ids)
        if (link := attributes.get("href")) is not None:
            assert link[1:] in ids
    for section in page.named("section"):
        assert section["aria-labelledby"]


def test_every_chart_has_words_and_every_table_heads(make_page: MakePage) -> None:
    page = Page(make_page())
    pictures = page.named("svg")
    assert len(pictures) == 11
    for picture, children in zip(pictures, page.with_children("svg"), strict=True):
        assert picture["role"] == "img"
        assert picture["aria-labelledby"]
        assert {"title", "desc"} <= children
    for children in page.with_children("figure"):
        assert {"svg", "figcaption"} <= children
    tables = page.with_children("table")
    assert len(tables) > 8
    for children in tables:
        assert {"caption", "thead", "tbody"} <= children
    assert all(head["scope"] in ("col", "row") for head in page.named("th"))
    for box in (one for one in page.named("div") if one.get("class") == "scroll"):
        assert box["tabindex"] == "0"
        assert box["aria-label"]


def test_what_it_shows_cannot_become_markup(make_page: MakePage) -> None:
    plain, hostile = Page(make_page()), Page(make_page(HOSTILE))
    allowed = {tag for tag, _ in plain.elements}
    assert {tag for tag, _ in hostile.elements} <= allowed
    attributes = {name for _, those in plain.elements for name in those}
    assert {name for _, those in hostile.elements for name in those} <= attributes
    assert "&lt;script&gt;" in make_page(HOSTILE)


@pytest.mark.parametrize("option", SECTIONS)
def test_a_section_without_input_is_left_out(make_page: MakePage, option: str) -> None:
    page = Page(make_page(only=option))
    shown = [section["id"] for section in page.named("section")]
    assert set(shown) == SECTIONS[option] | {"provenance"}
    menu = [link["href"] for link in page.named("a") if link.get("class") != "skip"]
    assert menu == [f"#{name}" for name in shown]


@pytest.mark.parametrize("option", SECTIONS)
def test_no_command_is_named_that_was_not_run(
    tmp_path: Path, make_page: MakePage, option: str
) -> None:
    make_page()
    path = tmp_path / (f"{option}.json" if option != "storage" else "runs")
    if path.is_file():
        content = json.loads(path.read_text())
        del content["command"]
        path.write_text(json.dumps(content))
    output = tmp_path / "unknown.html"
    arguments = ["report", f"--{option}", str(path), "--output", str(output)]
    assert main(arguments) == 0
    page = output.read_text()
    named = set(re.findall("<code>(.*?)</code>", page))
    assert named == ({shlex.join(["perfsuite", *arguments])} if option == "storage" else set())
    assert page.count("<dt>command</dt>") == 1


def test_each_chart_names_its_command(make_page: MakePage) -> None:
    page = make_page()
    figures = re.findall("<figure>.*?</figure>", page, re.DOTALL)
    assert len(figures) == 11
    for figure in figures:
        assert re.search("Made by <code>[^<]+</code>", figure)


def test_colours_can_be_told_from_the_page() -> None:
    """WCAG 2.2: text 4.5 to 1, parts of a picture 3 to 1, in light and in dark."""
    rules = stylesheet()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6});", block))
        for block in re.findall(r":root \{(.*?)\}", rules, re.DOTALL)
    )
    assert light.keys() == dark.keys()
    for palette in (light, dark):
        page = palette.pop("page")
        panel, _rule = palette.pop("panel"), palette.pop("rule")
        for name, colour in palette.items():
            enough = 4.5 if name in ("ink", "soft", "link") else 3
            assert _contrast(colour, page) >= enough, name
            if enough == 4.5:
                assert _contrast(colour, panel) >= enough, name


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
