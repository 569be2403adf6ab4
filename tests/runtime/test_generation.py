"""Continuing a prompt: the tokens that feeding the whole text each time would give, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from runtime import STAGES, SplitLlama
from runtime.errors import InputError
from runtime.generation import Generation
from tests.runtime.models import random_ids, serve_in_thread, small_config, temporary_model


@pytest.fixture(scope="module", params=STAGES)
def llama(request: pytest.FixtureRequest) -> Iterator[SplitLlama]:
    with (
        temporary_model(small_config()) as checkpoint,
        serve_in_thread(checkpoint, request.param) as served,
    ):
        yield served


def stream(llama: SplitLlama, ids: torch.Tensor, new: int, **options: object) -> Generation:
    found = llama.generate(ids, max_new_tokens=new, stream=True, **options)  # type: ignore[call-overload]
    assert isinstance(found, Generation)
    return found


def test_greedy_tokens_are_those_of_the_whole_text_each_time(llama: SplitLlama) -> None:
    if llama.stage.dtype != "float32":
        pytest.skip("bfloat16 rounds otherwise: near ties may fall either way")
    ids = random_ids(llama.config, 2, 5)
    found = list(stream(llama, ids, 6, ignore_eos=True))
    text = ids
    for token in found:
        assert torch.equal(token, llama.forward(text).argmax(-1))
        text = torch.cat((text, token[:, None]), dim=1)
    assert len(found) == 6


def test_what_is_streamed_is_what_is_returned_and_it_is_timed(llama: SplitLlama) -> None:
    ids = random_ids(llama.config, 1, 4)
    generation = stream(llama, ids, 5, ignore_eos=True)
    tokens = torch.stack(list(generation), dim=1)
    assert torch.equal(generation.tokens, torch.cat((ids, tokens), dim=1))
    whole = llama.generate(ids, max_new_tokens=5, ignore_eos=True)
    assert torch.equal(whole, generation.tokens)
    assert generation.finish_reasons == ["length"]
    assert generation.ttft_s > 0
    assert len(generation.token_s) == 4
    assert generation.first_totals is not None
    assert generation.token_totals is not None
    assert generation.totals is not None
    for name in ("rpc_count", "bytes_sent", "bytes_received"):
        first, further = generation.first_totals, generation.token_totals
        assert generation.totals[name] == first[name] + further[name]


def test_one_that_is_closed_makes_no_more_and_gives_its_cache_back(llama: SplitLlama) -> None:
    generation = stream(llama, random_ids(llama.config, 1, 4), 20, ignore_eos=True)
    next(generation)
    generation.close()
    generation.close()
    assert list(generation) == []
    assert generation.finish_reasons == [None]
    llama.forward([1])
    assert len(llama.abandoned) == 0


def test_a_context_that_was_given_is_left_open_with_all_that_was_fed(llama: SplitLlama) -> None:
    with llama.open_context(1, 40) as context:
        generation = stream(
            llama, random_ids(llama.config, 1, 4), 5, context=context, ignore_eos=True
        )
        generation.finish()
        assert context.length == 4 + 4  # the last token is chosen, and not fed
        context.append(generation.tokens[:, -1:])


def test_the_caller_s_prompt_may_change_after_the_call(llama: SplitLlama) -> None:
    ids = random_ids(llama.config, 1, 4)
    expected = stream(llama, ids.clone(), 3, ignore_eos=True).finish()
    generation = stream(llama, ids, 3, ignore_eos=True)
    ids.zero_()
    assert torch.equal(generation.finish(), expected)


@pytest.mark.parametrize("new", [0, -1, 1.0, True, None])
def test_a_number_of_tokens_that_is_none_is_refused(llama: SplitLlama, new: int) -> None:
    with pytest.raises(InputError, match=r"^max_new_tokens: "):
        stream(llama, random_ids(llama.config, 1, 4), new)


def test_more_than_fits_is_refused_before_anything_is_computed(llama: SplitLlama) -> None:
    with pytest.raises(InputError, match="4 tokens and 62 new ones exceed the 64 positions"):
        stream(llama, random_ids(llama.config, 1, 4), 62)
    assert stream(llama, random_ids(llama.config, 1, 4), 61, ignore_eos=True).finish().shape == (
        1,
        65,
    )
