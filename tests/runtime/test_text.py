from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.text import printable, printable_lines


@given(st.text(max_size=50))
def test_what_is_shown_prints(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)


def test_ordinary_text_is_shown_as_it_is() -> None:
    assert printable("an NVIDIA GPU, 80 GB: größer") == "an NVIDIA GPU, 80 GB: größer"


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    assert printable("a\x1b[31mb\nc\u202ed") == "a\ufffd[31mb\ufffdc\ufffdd"


def test_a_long_text_is_cut() -> None:
    assert printable("x" * 10**6, 5) == "xxxxx..."
    assert len(printable("x" * 10**6)) < 1100


def test_lines_and_tabs_are_shown_where_a_text_has_several() -> None:
    assert printable_lines("a\tb\nc\r\x1b[2Jd\x07") == "a\tb\nc\ufffd\ufffd[2Jd\ufffd"
    assert printable_lines("x\n" * 10**4) == "x\n" * 10**4
