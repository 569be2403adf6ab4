from __future__ import annotations

from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.cells import cell_len
from rich.console import Console

from perfsuite.render.blocks import Block, Heading, Note, Paragraph, Row, Shares, Table, columns
from perfsuite.render.terminal import lines, show

SHARES = Shares("parts", ("x", "y"), {"one": {"x": 1.0, "y": 3.0}}, label="name")
TABLE = Table(columns("name", "count"), [Row("a", "1", tone="bad"), Row("bb", "22")], "a caption")


def drawn(blocks: list[Block], width: int | None = 40, **options: object) -> list[str]:
    console = Console(file=StringIO(), markup=False, **options)  # type: ignore[arg-type]
    show(blocks, console, width=width)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().split("\n")[:-1]


def test_parts_stand_apart_and_tables_below_their_headings() -> None:
    blocks: list[Block] = [
        Heading("whole"),
        TABLE,
        Note("said"),
        Note("more", "too"),
        Heading("part", 2),
        TABLE,
    ]
    table = ["name  count", "a         1", "bb       22"]
    said = ["said", "too: more"]
    assert drawn(blocks) == ["whole", "", *table, "", *said, "", "part", *table]


@pytest.mark.parametrize("width", [20, 40])
def test_what_is_too_long_is_folded(width: int) -> None:
    long = Table(columns("name", "why", left=("why",)), [Row("n" * 70, "word " * 30)])
    found = drawn([long, Paragraph("word " * 30)], width)
    assert max(map(cell_len, found)) <= width
    assert "".join(found).count("n") >= 70
    assert "".join(found).count("word") == 60


def test_without_a_width_a_row_is_a_line() -> None:
    long = Table(
        columns("name", "why", left=("why",)), [Row("n" * 300, "word\n" * 100, tone="good")]
    )
    assert len(lines([long])) == len(drawn([long], None)) == 2


def test_columns_move_closer_before_anything_is_folded() -> None:
    table = Table(columns("1", "2", "3"), [Row("a" * 16, "b" * 10, "c" * 12)])
    assert lines([table])[1].count("  ") == 2
    assert drawn([table])[1].count("  ") == 0


def test_colours_are_for_terminals() -> None:
    assert "\x1b[31ma" in "\n".join(
        drawn([TABLE], force_terminal=True, color_system="standard", width=40)
    )
    assert "\x1b" not in "\n".join(drawn([TABLE, Note("said", "first", "bad")]))


def test_forced_colours_fold_nothing_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    long = Table(columns("name", "why", left=("why",)), [Row("a", "word " * 50, tone="bad")])
    assert "\x1b" not in "".join(lines([long]))
    show([long], width=None)
    assert capsys.readouterr().out.count("\n") == 2


def test_shares_are_a_bar_and_percentages() -> None:
    bar = lines([SHARES])[-1]
    assert bar.startswith("one   ░░░░░░░")
    assert bar.endswith("25.0%  75.0%")


def test_a_page_without_unicode_has_bars_too() -> None:
    page = TextIOWrapper(BytesIO(), encoding="ascii")
    show([SHARES, Note("▁▂▃▄▅▆▇█")], Console(file=page))
    page.seek(0)
    assert "-------" in (text := page.read())
    assert "_.-~=+*#" in text


def test_markup_in_a_name_is_text() -> None:
    assert lines([Table(columns("[b]name"), [Row("[red]a[/red]")])]) == [
        "[b]name",
        "[red]a[/red]",
    ]
