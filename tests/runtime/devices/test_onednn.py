"""oneDNN's products: when they serve, and how attention is computed beside them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from runtime.devices.onednn import _BLOCKS_FROM, OneDnnKernels, has_onednn
from runtime.devices.scratch import Scratch
from tests.runtime.devices.comparing import (
    BFLOAT16_RESULT,
    assert_causal_attention,
    assert_product,
    normal,
)

needs_onednn = pytest.mark.skipif(
    not has_onednn(), reason="needs a torch that is built with oneDNN"
)


@needs_onednn
def test_a_packed_weight_serves_any_number_of_rows() -> None:
    """It is packed for a typical one."""
    kernels = OneDnnKernels(torch.float32, Scratch())
    weight, bias = normal(70, 96, seed=1), normal(70, seed=2)
    packed = kernels.pack(weight, bias)
    assert packed.columns == 70
    for rows in (1, 2, 33, 1024, 1500):
        x = normal(rows, 96, seed=rows)
        out = kernels.linear(kernels.activation(x), packed)
        assert_product(out, x, weight, bias, error=2**-20)


@needs_onednn
def test_only_long_bfloat16_attention_is_computed_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[torch.dtype, int]] = []

    def attend(dtype: torch.dtype, tokens: int) -> None:
        kernels = OneDnnKernels(dtype, Scratch())
        blocks = kernels._in_blocks
        if blocks is not None:

            def spied(*given: torch.Tensor) -> torch.Tensor:
                asked.append((dtype, given[0].shape[2]))
                return blocks(*given)

            monkeypatch.setattr(kernels, "_in_blocks", spied)
        assert_causal_attention(kernels.attended, dtype, (1, 2, 1, tokens, 16))

    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (_BLOCKS_FROM - 1, _BLOCKS_FROM):
            attend(dtype, tokens)
    assert asked == [(torch.bfloat16, _BLOCKS_FROM)]


@needs_onednn
def test_a_result_has_the_type_of_the_place_that_it_is_written_to() -> None:
    kernels = OneDnnKernels(torch.float32, Scratch())
    x, weight = normal(9, 32, seed=0), normal(8, 32, seed=1)
    out = torch.full((9, 8), torch.nan, dtype=torch.bfloat16)
    assert kernels.linear(kernels.activation(x), kernels.pack(weight, None), out) is out
    assert_product(out, x, weight, error=BFLOAT16_RESULT)


@pytest.mark.parametrize("missing", ["_reorder_linear_weight", "_linear_pointwise"])
def test_a_torch_without_one_of_the_operations_does_without_them(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no part of its public interface."""
    operations = {"_reorder_linear_weight": None, "_linear_pointwise": None}
    del operations[missing]
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operations))
    assert not has_onednn()
