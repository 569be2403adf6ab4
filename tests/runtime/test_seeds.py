"""A seed chooses the same tokens at every stage of one dtype."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime import STAGES, load_checkpoint
from runtime.checkpoints import Checkpoint
from tests.runtime.models import serve_in_thread, small_config, temporary_model

DTYPES = sorted({stage.dtype for stage in STAGES.values()})
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with temporary_model(small_config(vocab_size=2000)) as made:
        yield made


def chosen(
    checkpoint: Checkpoint, stage: str, prompts: list[list[int]], new: int
) -> list[list[list[int]]]:
    """What each seed chooses for each prompt."""
    with serve_in_thread(checkpoint, stage) as llama:
        return [
            llama.generate(prompts, new, temperature=0.9, top_p=0.95, seed=seed).tolist()
            for seed in SEEDS
        ]


def assert_stages_agree(
    checkpoint: Checkpoint, dtype: str, prompts: list[list[int]], new: int
) -> None:
    first, *others = (name for name, stage in STAGES.items() if stage.dtype == dtype)
    expected = chosen(checkpoint, first, prompts, new)
    assert len({str(tokens) for tokens in expected}) == len(SEEDS)
    for stage in others:
        assert chosen(checkpoint, stage, prompts, new) == expected, stage


@pytest.mark.parametrize("dtype", DTYPES)
def test_stages_of_one_dtype_choose_equally(checkpoint: Checkpoint, dtype: str) -> None:
    """Of random weights, which make many tokens almost equally likely."""
    assert_stages_agree(checkpoint, dtype, [[1, 2, 3], [9, 8, 7]], 30)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_stages_of_one_dtype_choose_equally_on_real_weights(dtype: str) -> None:
    checkpoint = load_checkpoint("smollm2-135m")
    prompt = checkpoint.tokenizer().encode("Once upon a time")
    assert_stages_agree(checkpoint, dtype, [prompt], 4)
