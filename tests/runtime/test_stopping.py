from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from runtime import load_checkpoint
from runtime.checkpoints.tokenizer import ByteTokenizer
from runtime.errors import InputError
from runtime.stopping import Stopping, StopStrings
from tests.runtime.tokenizers_of_kinds import tokenizers_of_kinds


def finishes_after(stopping: Stopping, tokens: list[int]) -> int | None:
    """How many tokens one prompt got until it was finished."""
    for count, token in enumerate(tokens, start=1):
        if stopping.update(torch.tensor([token])).item():
            return count
    return None


def test_end_tokens_and_stop_tokens_finish_each_prompt_by_itself() -> None:
    stopping = Stopping(3, eos=(2, 7), stop=(5,))
    assert stopping.update(torch.tensor([1, 7, 1])).tolist() == [False, True, False]
    assert stopping.update(torch.tensor([1, 1, 5])).tolist() == [False, True, True]
    assert stopping.update(torch.tensor([1, 5, 2])).tolist() == [False, True, True]
    assert stopping.reasons == [None, "eos", "stop"]


def test_strings_are_found_in_each_answer_by_itself() -> None:
    stopping = Stopping(2, stop=("ab", "c"), tokenizer=ByteTokenizer(256))
    found = [
        stopping.update(torch.tensor([ord(first), ord(second)])).tolist()
        for first, second in ("ax", "ab", "bx", "yc")
    ]
    assert found == [[False, False], [False, False], [True, False], [True, True]]
    assert stopping.reasons == ["stop", "stop"]


@settings(deadline=None)
@given(
    st.text("ab\u20ac", max_size=30),
    st.lists(st.text("ab\u20ac", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_string_finishes_with_the_token_that_completes_it(text: str, strings: list[str]) -> None:
    tokens = ByteTokenizer(256).encode(text)
    ends = [text.find(string) + len(string) for string in strings if string in text]
    expected = len(text[: min(ends)].encode()) if ends else None
    stopping = Stopping(1, stop=strings, tokenizer=ByteTokenizer(256))
    assert finishes_after(stopping, tokens) == expected


@pytest.mark.parametrize(
    "stop", ["ris", ". It", "\n", " Paris.", "\n\nThe", "\u20ac", "nothing of it", "<|im_end|>"]
)
def test_strings_are_found_where_transformers_finds_them(stop: str) -> None:
    checkpoint = load_checkpoint("smollm2-135m")
    tokenizer = checkpoint.tokenizer()
    answer = tokenizer.encode(" The capital is Paris. It costs 3\u20ac.\n\nThe end.<|im_end|>")
    criteria = StopStringCriteria(
        PreTrainedTokenizerFast(tokenizer_file=str(checkpoint.directory / "tokenizer.json")), [stop]
    )
    expected = next(
        (
            count
            for count in range(1, len(answer) + 1)
            if criteria(torch.tensor([answer[:count]]), None).item()
        ),
        None,
    )
    assert finishes_after(Stopping(1, stop=(stop,), tokenizer=tokenizer), answer) == expected


def test_a_string_is_found_although_its_text_may_change(tmp_path: Path) -> None:
    """A line end of a Llama 2 is a byte, whose text is final only with the next token."""
    tokenizer = tokenizers_of_kinds(tmp_path)["sentencepiece"]
    newline = 3 + ord("\n")
    assert finishes_after(Stopping(1, stop=("\n",), tokenizer=tokenizer), [newline]) == 1


def test_a_space_that_follows_the_prompt_belongs_to_the_answer(tmp_path: Path) -> None:
    tokenizer = tokenizers_of_kinds(tmp_path)["sentencepiece"]
    word = 3 + 256 + 1 + 14 + 6  # "hello" after a space
    for prompts, expected in (([[20]], 1), (None, None)):
        stopping = Stopping(1, stop=(" hello",), tokenizer=tokenizer, prompts=prompts)
        assert finishes_after(stopping, [word]) == expected


def test_a_string_across_the_prompts_end_does_not_finish() -> None:
    stopping = Stopping(1, stop=("ab",), tokenizer=ByteTokenizer(256), prompts=[[ord("a")]])
    assert finishes_after(stopping, [ord("b")]) is None


@settings(deadline=None)
@given(
    st.lists(st.text("ab ", max_size=5), max_size=8),
    st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3),
)
@example(["a", "ab"], ["aab", "aaaa"])
def test_what_is_shown_ends_before_the_string(pieces: list[str], strings: list[str]) -> None:
    text = "".join(pieces)
    ends = [(text.find(string) + len(string), -len(string)) for string in strings if string in text]
    expected = text[: sum(min(ends))] if ends else text
    cut = StopStrings(strings)
    shown = ""
    for piece in pieces:
        shown += cut.feed(piece)
        assert expected.startswith(shown)
    assert shown + cut.flush() == expected
    assert cut.found == bool(ends)


def test_an_end_that_may_become_the_string_is_held_back() -> None:
    cut = StopStrings(["\nUser:"])
    assert [cut.feed(piece) for piece in ("Yes.", "\n", "\nUs", "er", ": no", "more")] == [
        "Yes.", "", "\n", "", "", "",
    ]  # fmt: skip
    assert cut.found
    assert cut.flush() == ""
    cut = StopStrings(["\nUser:"])
    assert cut.feed("a\nUs") + cut.flush() == "a\nUs"


@pytest.mark.parametrize("stop", ["text", 5, None, [""], [1.5], [True], [None], [b"x"]], ids=repr)
def test_a_stop_that_is_none_is_refused(stop: Any) -> None:
    with pytest.raises(InputError, match=r"^stop: must "):
        Stopping(1, stop=stop, tokenizer=ByteTokenizer(256))


def test_strings_need_a_tokenizer() -> None:
    with pytest.raises(InputError, match=r"^tokenizer: "):
        Stopping(1, stop=("x",))
