"""A conversation that keeps its context: the same answers as without one, and less to compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import SplitLlama, load_checkpoint
from runtime.caches import MOST_CACHES
from runtime.chat import Chat, common_prefix
from runtime.checkpoints import Checkpoint
from runtime.errors import InputError
from tests.runtime.models import serve_in_thread, small_config, write_model

TEMPLATE = """
{%- for message in messages -%}
    {%- if message.content == 'refuse' %}{{ raise_exception('not that') }}{% endif -%}
    <{{ message.role }}>{{ message.content | trim }}</>
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model of bytes that talks at random, in a template of its own."""
    folder = tmp_path_factory.mktemp("talking") / "model"
    made = write_model(folder, small_config(vocab_size=300, max_position_embeddings=600))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return made


@pytest.fixture(scope="module", params=["shared-memory", "fused", "resident"])
def llama(checkpoint: Checkpoint, request: pytest.FixtureRequest) -> Iterator[SplitLlama]:
    with serve_in_thread(checkpoint, request.param) as served:
        yield served


def begin(llama: SplitLlama, checkpoint: Checkpoint, **options: Any) -> Chat:
    template = checkpoint.chat_template()
    assert template
    return Chat(llama, checkpoint, template, **options)


def answer_without_context(
    llama: SplitLlama, checkpoint: Checkpoint, chat: Chat, new: int, **sampling: Any
) -> list[int]:
    """What the model says to the conversation up to its last question, computed from the beginning."""
    text = checkpoint.render_chat(chat.messages[:-1])
    ids = checkpoint.tokenizer().encode(text)
    generated = llama.generate(ids, new, **sampling)
    return [int(token) for token in generated[0, len(ids) :]]


def test_each_turn_is_answered_as_without_a_context(
    llama: SplitLlama, checkpoint: Checkpoint
) -> None:
    held = 0
    with begin(llama, checkpoint, capacity=600, max_new_tokens=12) as chat:
        for question in ("Hello", "And then?", "What of it? Gr\u00fc\u00dfe"):
            answer = chat.ask(question)
            assert "".join(answer) == answer.text
            assert answer.tokens == answer_without_context(llama, checkpoint, chat, 12)
            assert chat.messages[-2:] == [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer.text},
            ]
            # All before the earlier answer at least, whose text may be encoded otherwise than it was made.
            assert answer.kept_tokens >= held
            held = answer.prompt_tokens


def test_tokens_are_chosen_as_without_a_context(llama: SplitLlama, checkpoint: Checkpoint) -> None:
    """The repetition penalty counts what the context holds, too."""
    sampling: dict[str, Any] = {
        "temperature": 0.8,
        "top_p": 0.95,
        "repetition_penalty": 1.5,
        "seed": 11,
    }
    with begin(llama, checkpoint, capacity=600, max_new_tokens=12, **sampling) as chat:
        for question in ("Hello", "And then?"):
            answer = chat.ask(question)
            list(answer)
            expected = answer_without_context(llama, checkpoint, chat, 12, **sampling)
            assert answer.tokens == expected
            assert (answer.kept_tokens > 20) == (question != "Hello")


def test_only_what_is_new_is_computed(llama: SplitLlama, checkpoint: Checkpoint) -> None:
    with begin(llama, checkpoint, capacity=600, max_new_tokens=1) as chat:
        long = chat.ask("a long question " * 10)
        list(long)
        short = chat.ask("short")
        list(short)
    assert long.kept_tokens == 0
    assert short.kept_tokens >= long.prompt_tokens
    computed = [answer.generation.first_totals for answer in (long, short)]
    assert computed[0]
    assert computed[1]
    assert computed[1]["bytes_sent"] < computed[0]["bytes_sent"] / 2


def test_an_answer_that_is_cancelled_stays_as_far_as_it_came(
    llama: SplitLlama, checkpoint: Checkpoint
) -> None:
    with begin(llama, checkpoint, capacity=600, max_new_tokens=100) as chat:
        cancelled = chat.ask("Hello")
        for _ in cancelled:
            cancelled.cancelled = len(cancelled.tokens) >= 5
        assert 5 <= len(cancelled.tokens) < 100
        assert chat.messages[-1]["content"] == cancelled.text
        given_up = chat.ask("Again")
        next(iter(given_up))  # and nobody asks for the rest
        del given_up
        answer = chat.ask("And?")
        list(answer)
        assert answer.tokens == answer_without_context(llama, checkpoint, chat, 100)


def test_the_same_question_again_needs_its_last_token_only(
    llama: SplitLlama, checkpoint: Checkpoint
) -> None:
    with begin(llama, checkpoint, capacity=600, max_new_tokens=3) as chat:
        first = chat.ask("Hello")
        list(first)
        chat.messages.clear()
        again = chat.ask("Hello")
        list(again)
    assert again.kept_tokens == again.prompt_tokens - 1
    assert again.tokens == first.tokens


def test_a_conversation_that_became_too_long_can_be_begun_anew(
    llama: SplitLlama, checkpoint: Checkpoint
) -> None:
    with begin(llama, checkpoint, capacity=60, max_new_tokens=500) as chat:
        answer = chat.ask("Hello")
        list(answer)
        assert answer.prompt_tokens + len(answer.tokens) == 60 + 1  # the last one is not kept
        before = list(chat.messages)
        with pytest.raises(InputError, match="its context takes 60"):
            chat.ask("And?")
        assert chat.messages == before
        chat.clear()
        again = chat.ask("Hello")
        list(again)
        assert again.kept_tokens == 0
        assert again.tokens == answer.tokens


def test_what_the_template_refuses_was_not_said(llama: SplitLlama, checkpoint: Checkpoint) -> None:
    with begin(llama, checkpoint, capacity=100, max_new_tokens=2) as chat:
        list(chat.ask("Hello"))
        before = list(chat.messages)
        with pytest.raises(InputError, match="not that"):
            chat.ask("refuse")
        assert chat.messages == before
        list(chat.ask("Well"))
        assert len(chat.messages) == 4


def test_the_context_is_given_back(llama: SplitLlama, checkpoint: Checkpoint) -> None:
    for _ in range(MOST_CACHES + 1):
        with begin(llama, checkpoint, capacity=100, max_new_tokens=1) as chat:
            list(chat.ask("x"))
            chat.close()


@pytest.mark.slow
def test_a_real_model_remembers_what_was_said() -> None:
    checkpoint = load_checkpoint("smollm2-135m")
    with (
        serve_in_thread(checkpoint, "fused") as served,
        begin(served, checkpoint, capacity=512, max_new_tokens=24) as chat,
    ):
        assert "Paris" in "".join(chat.ask("What is the capital of France?"))
        second = chat.ask("And of which country is that the capital?")
        assert "France" in "".join(second)
        assert second.kept_tokens > 40
        assert second.tokens[-1] in checkpoint.eos_token_ids
        assert "<|im_end|>" not in second.text


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(first: list[int], second: list[int]) -> None:
    common = common_prefix(first, second)
    assert first[:common] == second[:common]
    assert first[common : common + 1] != second[common : common + 1] or common == len(first)
