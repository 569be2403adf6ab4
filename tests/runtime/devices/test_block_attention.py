"""Attention as products of blocks: exact in both element types, on any processor."""

from __future__ import annotations

import pytest
import torch

from runtime.devices.block_attention import BlockAttention
from runtime.devices.scratch import Scratch
from tests.runtime.devices.comparing import ATTENTIONS, assert_causal_attention, normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ATTENTIONS)
def test_attention_in_blocks_is_exact_on_any_processor(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    attention = BlockAttention(dtype, Scratch())
    longer = normal(2, 6, 800, 64, seed=2, dtype=dtype) * torch.inf
    attention(longer, longer, longer)  # what is left in memory must not count
    assert_causal_attention(attention, dtype, shape)
