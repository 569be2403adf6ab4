"""A text that grows, over a worker in a thread: the same logits as of the whole text at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import STAGES, SplitLlama
from runtime.caches import MOST_PROMPTS
from runtime.context import new_number
from runtime.errors import InputError
from tests.runtime.models import (
    BFLOAT16_BOUND,
    FLOAT32_BOUND,
    difference,
    random_ids,
    serve_in_thread,
    small_config,
    temporary_model,
)


@pytest.fixture(scope="module", params=STAGES)
def llama(request: pytest.FixtureRequest) -> Iterator[SplitLlama]:
    with (
        temporary_model(small_config()) as checkpoint,
        serve_in_thread(checkpoint, request.param) as served,
    ):
        yield served


@given(
    pieces=st.lists(st.integers(1, 20), min_size=1, max_size=4).filter(lambda p: sum(p) <= 60),
    batch=st.integers(1, 3),
    cut=st.integers(0, 10),
)
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_pieces_give_what_the_whole_text_gives_also_after_it_was_cut(
    llama: SplitLlama, pieces: list[int], batch: int, cut: int
) -> None:
    total = sum(pieces)
    ids = random_ids(llama.config, batch, total)
    bound = FLOAT32_BOUND if llama.stage.dtype == "float32" else BFLOAT16_BOUND
    with llama.open_context(batch, 64) as context:
        for _ in range(2):
            logits = [
                context.append(ids[:, context.length : context.length + rows]) for rows in pieces
            ]
            assert context.length == total
            assert difference(logits[-1], llama.forward(ids)) <= bound
            context.trim(min(cut, context.length - 1))
            pieces = [total - context.length]


@pytest.mark.parametrize(
    ("batch", "capacity", "named"),
    [
        (1, 0, "capacity"),
        (1, 65, "capacity"),
        (1, 2.0, "capacity"),
        (0, 9, "batch"),
        (MOST_PROMPTS + 1, 9, "batch"),
        (True, 9, "batch"),
    ],
)
def test_a_context_of_no_size_is_refused_by_name(
    llama: SplitLlama, batch: int, capacity: int, named: str
) -> None:
    with pytest.raises(InputError, match=f"^{named}: "):
        llama.open_context(batch, capacity)


def test_what_does_not_continue_it_is_refused_and_nothing_is_lost(llama: SplitLlama) -> None:
    with llama.open_context(1, 10) as context:
        context.append([1, 2, 3])
        for wrong, named in (
            ([[1], [2]], "1 conversations"),
            ([1] * 8, "exceed the 10"),
            ([96], "96"),
        ):
            with pytest.raises(InputError, match=named):
                context.append(wrong)
        for length in (-1, 4, 1.0, None):
            with pytest.raises(InputError, match=r"^length: "):
                context.trim(length)  # type: ignore[arg-type]
        assert context.length == 3
        expected = llama.forward([1, 2, 3, 4])
        bound = FLOAT32_BOUND if llama.stage.dtype == "float32" else BFLOAT16_BOUND
        assert difference(context.append([4]), expected) <= bound


def test_a_closed_one_takes_nothing_more_and_closing_twice_is_closing_once(
    llama: SplitLlama,
) -> None:
    context = llama.open_context(1, 10)
    context.append([1])
    context.close()
    context.close()
    for use in (lambda: context.append([2]), lambda: context.trim(0)):
        with pytest.raises(InputError, match="context: is closed"):
            use()


def test_one_that_nobody_has_any_more_is_given_back_by_the_next_call(llama: SplitLlama) -> None:
    context = llama.open_context(1, 10)
    context.append([1])
    del context
    gc.collect()
    assert len(llama.abandoned) == 1
    llama.forward([1, 2])
    assert len(llama.abandoned) == 0


def test_numbers_cannot_be_guessed_from_one_another() -> None:
    numbers = {new_number() >> 20 for _ in range(50)}
    assert len(numbers) == 50
    assert max(numbers).bit_length() <= 42
    assert torch.iinfo(torch.int64).max > max(numbers) << 20
