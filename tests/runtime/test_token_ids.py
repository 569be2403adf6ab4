"""The caller's tokens: taken in every form that they come in, or refused with what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.token_ids import checked_token_ids
from tests.runtime.models import small_config

CONFIG = small_config(vocab_size=96, max_position_embeddings=64)

BAD: dict[str, tuple[Any, str]] = {
    "an empty list": ([], "empty"),
    "an empty prompt in a batch": ([[]], "empty"),
    "no prompts": (torch.empty(0, 5, dtype=torch.int64), "empty"),
    "an empty tensor": (torch.empty(0, dtype=torch.int64), "empty"),
    "ragged prompts": ([[1, 2, 3], [4, 5]], "equal length"),
    "a list of floats": ([1.0, 2.0], "integers"),
    "a tensor of floats": (torch.ones(1, 4), "integers"),
    "an unsigned id beyond the vocabulary": (np.array([3, 96], np.uint32), "token id 96 is not"),
    "an unsigned id beyond 63 bits": (np.array([3, 2**64 - 1], np.uint64), "token id -1 is not"),
    "an array of floats": (np.ones(3), "integers"),
    "an array of objects": (np.array([object()]), "token ids"),
    "ragged tensors": ([torch.tensor([1, 2]), torch.tensor([1])], "equal length"),
    "ragged arrays": ([np.array([1, 2]), np.array([1])], "equal length"),
    "tensors among numbers": ([torch.tensor([1, 2]), 3], "token ids"),
    "booleans": (torch.ones(1, 4, dtype=torch.bool), "integers"),
    "complex numbers": (torch.ones(1, 4, dtype=torch.complex64), "integers"),
    "a negative id": ([3, -1, 5], "token id -1 is not in 0..95"),
    "an id beyond the vocabulary": ([[3, 5], [96, 5]], "token id 96 is not in 0..95"),
    "an id beyond 64 bits": ([1, 2**70], "token id"),
    "one token too many": ([1] * 65, "65 tokens exceed the model's 64"),
    "three dimensions": (torch.ones(1, 2, 3, dtype=torch.int64), "batch, tokens"),
    "a bare number": (7, "batch, tokens"),
    "text": ("hello", "token ids"),
    "nothing": (None, "token ids"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(what: str) -> None:
    bad, words = BAD[what]
    with pytest.raises(InputError, match=r"^input_ids: ") as caught:
        checked_token_ids(bad, CONFIG)
    assert words in str(caught.value)


def read_only(array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    array.setflags(write=False)
    return array


FORMS: dict[str, Any] = {
    "lists": lambda ids: ids,
    "tuples": lambda ids: tuple(map(tuple, ids)),
    "an array": np.array,
    "an array of another byte order": lambda ids: np.array(ids).astype(">i8"),
    "an array turned around": lambda ids: np.array(ids)[..., ::-1].copy()[..., ::-1],
    "an array that cannot be written": lambda ids: read_only(np.array(ids)),
    "unsigned numbers of 16 bits": lambda ids: np.array(ids, np.uint16),
    "unsigned numbers of 32 bits": lambda ids: np.array(ids, np.uint32),
    "unsigned numbers of 64 bits": lambda ids: torch.tensor(ids).to(torch.uint64),
    "a list of arrays": lambda ids: [np.array(each, ">u2") for each in ids],
    "a list of tensors": lambda ids: [torch.tensor(each) for each in ids],
    "a tensor": torch.tensor,
    "small numbers": lambda ids: torch.tensor(ids, dtype=torch.uint8),
    "every other number": lambda ids: torch.tensor(ids).repeat_interleave(2, dim=1)[:, ::2],
}


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data(), batch=st.integers(1, 4), tokens=st.integers(1, 64))
def test_any_prompt_of_the_models_own_vocabulary_and_length_is_taken(
    form: str, data: st.DataObject, batch: int, tokens: int
) -> None:
    prompt = st.lists(st.integers(0, 95), min_size=tokens, max_size=tokens)
    ids = data.draw(st.lists(prompt, min_size=batch, max_size=batch))
    assert checked_token_ids(FORMS[form](ids), CONFIG).tolist() == ids
    assert checked_token_ids(FORMS[form](ids[:1])[0], CONFIG).tolist() == ids[:1]
