from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.errors import UsageError
from perfsuite.llama.prompts import SHIPPED, Prompt, read_prompt


class Letters:
    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_the_passage_is_long_plain_text() -> None:
    text = SHIPPED.text
    assert text.isascii()
    assert len(text.split()) >= 1300


@given(st.text(min_size=1).filter(str.strip), st.integers(1, 50))
def test_a_prompt_is_cut_or_repeated_to_the_length_asked_for(text: str, tokens: int) -> None:
    ids = Prompt("mine", text).tokenized(Letters(), tokens).ids
    assert len(ids) == tokens
    assert all(ids[i] == ord(text[i % len(text)]) for i in range(tokens))


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_prompt_without_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        Prompt("mine", text).tokenized(Letters(), 8)


@pytest.mark.parametrize(
    ("tokens", "length", "said"),
    [
        (None, 5, "mine"),
        (5, 5, "mine"),
        (12, 12, "mine, repeated from 5 tokens"),
        (3, 3, "mine, the first of 5 tokens"),
    ],
)
def test_a_prompt_keeps_its_own_length_unless_another_is_asked_for_and_says_what_was_done(
    tokens: int | None, length: int, said: str
) -> None:
    found = Prompt("mine", "Hello").tokenized(Letters(), tokens)
    assert (len(found.ids), found.source) == (length, said)


def test_of_the_shipped_passage_a_thousand_and_twenty_four_tokens_are_taken() -> None:
    found = SHIPPED.tokenized(Letters())
    assert (len(found.ids), found.source) == (1024, "shipped passage")
    assert SHIPPED.tokenized(Letters(), 2**14).source.startswith("shipped passage, repeated from")


def test_a_prompt_file_is_read_as_utf8(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes("Grüße".encode())
    assert read_prompt(file) == "Grüße"


@pytest.mark.parametrize(
    ("content", "problem"), [(b"", "empty"), (b"\n ", "empty"), (b"\xff\xfe\x00", "UTF-8")]
)
def test_a_prompt_file_without_text_is_refused(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=problem):
        read_prompt(file)


def test_a_prompt_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_prompt(tmp_path / "missing")
    with pytest.raises(UsageError, match="directory"):
        read_prompt(tmp_path)
