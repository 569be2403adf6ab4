from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime import SplitLlama
from runtime.answer import Answer, start_answer
from runtime.checkpoints import Checkpoint
from tests.runtime.models import serve_in_thread, small_config, temporary_model

PROMPT = list(b"Hello")


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with temporary_model(small_config(vocab_size=256)) as made:
        yield made


@pytest.fixture(scope="module")
def llama(checkpoint: Checkpoint) -> Iterator[SplitLlama]:
    with serve_in_thread(checkpoint, "fused") as served:
        yield served


def whole(llama: SplitLlama, new: int) -> list[int]:
    tokens: list[int] = llama.generate(PROMPT, new)[0, len(PROMPT) :].tolist()
    return tokens


def start(llama: SplitLlama, checkpoint: Checkpoint, new: int = 30, **options: object) -> Answer:
    options = {"end_tokens": (), **options}
    return start_answer(
        llama,
        checkpoint.tokenizer(),
        PROMPT,
        max_new_tokens=new,
        **options,  # type: ignore[arg-type]
    )


def test_the_pieces_are_the_text_of_what_is_made(llama: SplitLlama, checkpoint: Checkpoint) -> None:
    answer = start(llama, checkpoint)
    pieces = list(answer)
    assert answer.tokens == whole(llama, 30)
    assert "".join(pieces) == answer.text == checkpoint.tokenizer().decode(answer.tokens)
    assert all(pieces)
    assert answer.prompt_tokens == len(PROMPT)


def test_an_end_token_is_not_shown(llama: SplitLlama, checkpoint: Checkpoint) -> None:
    tokens = whole(llama, 10)
    end = next(token for token in tokens if token not in tokens[:2])
    shown = tokens[: tokens.index(end)]
    answer = start(llama, checkpoint, len(shown) + 1, end_tokens=(end,))
    assert "".join(answer) == checkpoint.tokenizer().decode(shown)
    assert answer.tokens == [*shown, end]


def test_a_stop_string_is_not_shown(llama: SplitLlama, checkpoint: Checkpoint) -> None:
    text = checkpoint.tokenizer().decode(whole(llama, 30))
    stop = text[5:7]
    answer = start(llama, checkpoint, stop=(stop,))
    assert "".join(answer) == text[: text.index(stop)]
    assert answer.generation.finish_reasons == ["stop"]


def test_an_answer_is_cancelled_between_tokens(llama: SplitLlama, checkpoint: Checkpoint) -> None:
    ended: list[Answer] = []
    answer = start(llama, checkpoint, ended=ended.append)
    for _ in answer:
        answer.cancelled = True
    assert 0 < len(answer.tokens) < 30
    assert answer.text == checkpoint.tokenizer().decode(answer.tokens)
    assert ended == [answer]
    assert llama.forward(PROMPT).isfinite().all()  # and the worker serves on


def test_the_end_is_told_where_an_answer_is_given_up(
    llama: SplitLlama, checkpoint: Checkpoint
) -> None:
    ended: list[Answer] = []
    answer = start(llama, checkpoint, ended=ended.append)
    pieces = iter(answer)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert ended == [answer]
