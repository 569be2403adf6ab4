"""Kernels for matrix tiles: how weights are packed, and what serves where the kernels cannot be had."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.devices import amx
from runtime.devices.amx import AmxKernels, load_amx_kernels
from runtime.devices.scratch import Scratch
from tests.runtime.devices.comparing import SPLIT_PRODUCT, assert_product, normal


@pytest.mark.parametrize("exact_in_bfloat16", [False, True])
def test_weights_that_were_bfloat16_need_one_product_less(exact_in_bfloat16: bool) -> None:
    library = load_amx_kernels()
    if library is None:
        pytest.skip("needs a processor with matrix tiles (AMX) and a C compiler")
    kernels = AmxKernels(torch.float32, Scratch(), library)
    weight = normal(50, 100, seed=1)
    if exact_in_bfloat16:
        weight = weight.bfloat16().float()
    packed = kernels.pack(weight, None)
    assert len(packed.parts) == (1 if exact_in_bfloat16 else 2)
    x, out = normal(64, 100, seed=0), torch.full((64, 50), torch.nan)
    kernels.linear(kernels.activation(x), packed, out)
    assert_product(out, x, weight, error=SPLIT_PRODUCT)


@given(columns=st.integers(1, 70), inner=st.integers(1, 70))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_panels_hold_every_weight_once_and_zeros_elsewhere(columns: int, inner: int) -> None:
    """Two tiles of 16 pairs by 16 columns for each 32 columns and 32 inner elements."""
    weight = torch.arange(1.0, 1 + columns * inner).view(columns, inner)
    panels = amx._panels(weight)
    down, across = -(-columns // 32), -(-inner // 32)
    assert panels.shape == (down, across, 2, 16, 16, 2)
    assert panels.is_contiguous()
    # Back again: (panel, tile, column in it) by (panel, pair, element of it).
    padded = panels.permute(0, 2, 4, 1, 3, 5).reshape(32 * down, 32 * across)
    assert torch.equal(padded[:columns, :inner], weight)
    assert int(padded.count_nonzero()) == weight.numel()


def test_without_tiles_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(amx, "compiled", None)
    assert load_amx_kernels() is None


def test_where_they_cannot_be_compiled_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: True)
    asked: list[str] = []
    monkeypatch.setattr(amx, "compiled", lambda name, flags: asked.append(name))
    assert load_amx_kernels() is None
    assert asked == ["amx"]
