"""The tokens that a caller gives, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runtime.checkpoints import ModelConfig
from runtime.errors import InputError
from runtime.rope import max_length

TokenIds = (
    torch.Tensor
    | npt.NDArray[np.integer[Any]]
    | Sequence[int]
    | Sequence[Sequence[int]]
    | Sequence[torch.Tensor]
)

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_UNSIGNED = (
    torch.uint16,
    torch.uint32,
    torch.uint64,
)  # which torch can hardly do more with than convert


def checked_token_ids(input_ids: TokenIds, config: ModelConfig) -> torch.Tensor:
    """Return ``input_ids``, (tokens,) or (batch, tokens), as (batch, tokens) of a model's own vocabulary and length.

    Raises:
        InputError: for an empty prompt, an id out of the vocabulary, or too many tokens.
    """
    try:
        ids = _as_tensor(input_ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("input_ids: must be token ids, of equal length for each prompt") from error
    if ids.dim() == 1:
        ids = ids.unsqueeze(0)
    if ids.numel() and (ids.dim() != 2 or ids.dtype not in _INTEGERS + _UNSIGNED):
        raise InputError(
            f"input_ids: must be integers (tokens,) or (batch, tokens), got {ids.dtype} {tuple(ids.shape)}"
        )
    if ids.numel() == 0:
        raise InputError("input_ids: the prompt is empty; give at least one token")
    if ids.shape[1] > max_length(config):
        raise InputError(
            f"input_ids: {ids.shape[1]} tokens exceed the model's {max_length(config)} positions"
        )
    if ids.dtype in _UNSIGNED:
        ids = ids.to(
            torch.int64
        )  # beyond that there is none in any vocabulary, and it shows as negative
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= config.vocab_size:
        raise InputError(
            f"input_ids: token id {low if low < 0 else high} is not in 0..{config.vocab_size - 1}"
        )
    return ids


def _as_tensor(given: TokenIds) -> torch.Tensor:
    """Return ``given`` as a tensor in host memory."""
    if isinstance(given, list | tuple):
        if given and all(isinstance(each, torch.Tensor) for each in given):
            return torch.stack([torch.as_tensor(each, device="cpu") for each in given])
        if any(isinstance(each, np.ndarray | np.generic) for each in given):
            given = np.asarray(given)
    if isinstance(given, np.ndarray):
        # In this machine's byte order, at strides that torch has, and torch's to write to.
        given = given.astype(given.dtype.newbyteorder("="), order="C")
    return torch.as_tensor(given, device="cpu")
