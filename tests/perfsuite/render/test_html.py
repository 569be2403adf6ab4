from __future__ import annotations

import re

from perfsuite.render.blocks import Block, Heading, Listing, Note, Row, Shares, Table, columns
from perfsuite.render.html import environment

HOSTILE = "<script>&\x00\ud800"


def page(*blocks: Block) -> str:
    template = environment().from_string(
        '{% from "render/blocks.html.j2" import show %}{% for one in blocks %}{{ show(one) }}{% endfor %}'
    )
    return template.render(blocks=blocks)


def test_each_block_has_its_element() -> None:
    table = Table(columns("name", "count"), [Row("a", "1", tone="bad")], "caption")
    found = page(Heading("title"), Listing("x"), Note("said", "first"), Note("more"), table)
    for element in (
        "<h3>title</h3>",
        "<pre>x</pre>",
        '<p class="note"><b>first:</b> said</p>',
        '<p class="note">more</p>',
        '<tr class="bad">',
        '<th scope="row">a</th>',
        '<td class="figure">1</td>',
        "<caption><span>caption</span></caption>",
    ):
        assert element in found


def test_shares_are_their_percentages() -> None:
    found = page(Shares("parts", ("x", "y"), {"one": {"x": 1.0, "y": 3.0}}))
    assert re.findall(r'<td class="figure">(.*?)</td>', found) == ["25.0%", "75.0%"]


def test_nothing_becomes_markup_or_breaks_a_file() -> None:
    found = page(Table(columns(HOSTILE), [Row(HOSTILE)], HOSTILE), Note(HOSTILE, HOSTILE))
    assert "<script" not in found
    assert "&lt;script&gt;&amp;\ufffd\ufffd" in found
    found.encode("utf-8")
