from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import load_checkpoint
from runtime.checkpoints.tokenizer import Tokenizer
from runtime.detokenizer import Detokenizer
from tests.runtime.tokenizers_of_kinds import tokenizers_of_kinds

UNKNOWN = "\ufffd"
KINDS = ("byte-level", "sentencepiece", "bytes")

# Bytes of characters, and what is not UTF-8, are common: that is where the order of things matters.
ids = st.lists(st.integers(0, 299), max_size=40)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return tokenizers_of_kinds(tmp_path_factory.mktemp("tokenizers"))


def pieces_of(tokenizer: Tokenizer, tokens: list[int], context: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer, context)
    return [*(detokenizer.add(token) for token in tokens), detokenizer.flush()]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(ids=ids)
def test_the_pieces_are_the_decoding_of_the_whole(
    kinds: dict[str, Tokenizer], kind: str, ids: list[int]
) -> None:
    tokenizer = kinds[kind]
    assert "".join(pieces_of(tokenizer, ids, [])) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(text=st.text(max_size=30), answer=st.text(max_size=30))
def test_no_character_is_split_and_the_context_is_left_out(
    kinds: dict[str, Tokenizer], kind: str, text: str, answer: str
) -> None:
    tokenizer = kinds[kind]
    context, tokens = tokenizer.encode(text), tokenizer.encode(answer)
    pieces = pieces_of(tokenizer, tokens, context)
    whole = tokenizer.decode(context + tokens)
    assert tokenizer.decode(context) + "".join(pieces) == whole
    assert "".join(pieces).count(UNKNOWN) == whole.count(UNKNOWN) - tokenizer.decode(context).count(
        UNKNOWN
    )


def test_a_character_comes_whole_and_as_soon_as_it_is(kinds: dict[str, Tokenizer]) -> None:
    tokens = kinds["byte-level"].encode("h\u20acae")
    assert pieces_of(kinds["byte-level"], tokens, []) == ["h", "", "\u20aca", "e", ""]
    tokens = kinds["bytes"].encode("a\U0001f600b")
    assert pieces_of(kinds["bytes"], tokens, []) == ["a", "", "", "", "\U0001f600", "b", ""]


def test_a_run_of_fallback_bytes_comes_when_it_ends(kinds: dict[str, Tokenizer]) -> None:
    """Whether its first bytes are a character hangs on the last one."""
    tokenizer = kinds["sentencepiece"]
    first, second, third = (3 + byte for byte in (0xC3, 0xA9, 0xE2))
    (x,) = tokenizer.encode("x")
    assert pieces_of(tokenizer, [first, second, x], []) == ["", "", "\u00e9x", ""]
    assert pieces_of(tokenizer, [first, second, third, x], [])[3] == UNKNOWN * 3 + "x"


def test_pending_text_is_what_the_tokens_read_by_now(kinds: dict[str, Tokenizer]) -> None:
    detokenizer = Detokenizer(kinds["sentencepiece"])
    assert detokenizer.add(3 + ord("\n")) == ""
    assert detokenizer.pending == "\n"
    assert detokenizer.flush() == "\n"
    assert detokenizer.pending == detokenizer.flush() == ""


def test_the_first_word_of_an_answer_keeps_its_space(kinds: dict[str, Tokenizer]) -> None:
    tokenizer = kinds["sentencepiece"]
    prompt, (answer,) = tokenizer.encode("hello"), [3 + 256 + 1 + 14 + 6]
    assert tokenizer.decode([answer]) == "hello"
    assert Detokenizer(tokenizer, prompt).add(answer) == " hello"


def test_real_text_comes_token_by_token() -> None:
    tokenizer = load_checkpoint("smollm2-135m").tokenizer()
    text = "Grüße aus \u6771\u4eac \U0001f469\u200d\U0001f680, 3,14 €\n\n\tend<|im_end|>"
    tokens = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, tokens, [])
    assert "".join(pieces) == text
    assert all(piece in text for piece in pieces)
    assert pieces[-2:] == ["<|im_end|>", ""]


def test_the_cost_of_a_token_does_not_grow_with_the_text(kinds: dict[str, Tokenizer]) -> None:
    class Counting:
        """The longest decoding that is asked for."""

        longest = 0

        def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
            return kinds["bytes"].encode(text)

        def decode(self, ids: object) -> str:
            assert isinstance(ids, list)
            self.longest = max(self.longest, len(ids))
            return kinds["bytes"].decode(ids)

        def is_fallback_byte(self, token: int) -> bool:
            return False

    tokenizer = Counting()
    pieces_of(tokenizer, tokenizer.encode("a\u20ac\U0001f600" * 100), [97] * 100)
    assert tokenizer.longest <= 8 + 4
