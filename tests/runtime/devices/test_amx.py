"""Kernels for matrix tiles: how weights are packed, and what serves where the kernels cannot be had."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.devices import amx
from runtime.devices.amx import AmxKernels, load_amx_kernels
from runtime.devices.compiled import compiled
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


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A processor with matrix tiles, and a cache in which nothing was compiled yet."""
    compiled.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: True)
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(tmp_path / "cache"))
    yield
    compiled.cache_clear()


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only C compiler that is found is this script."""
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(path) if name == "cc" else None)


def test_without_tiles_no_compiler_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(shutil, "which", None)
    assert load_amx_kernels() is None


@pytest.mark.usefixtures("tiles")
def test_without_a_compiler_the_tiles_stay_unused_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert load_amx_kernels() is None
    assert "no C compiler" in caplog.text


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    "script", ["exit 1", 'while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"'],
    ids=["it fails", "what it makes is no library"],
)  # fmt: skip
def test_a_compiler_that_makes_nothing_of_use_costs_speed_and_no_error(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler(tmp_path, script, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert load_amx_kernels() is None
    assert "cannot be used" in caplog.text


@pytest.mark.usefixtures("tiles")
def test_the_kernels_are_compiled_once_for_the_same_source_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    compiler(
        tmp_path, f'echo "$@" >> {log}; while [ "$1" != -o ]; do shift; done; : > "$2"', monkeypatch
    )
    for _ in range(2):
        load_amx_kernels()
        compiled.cache_clear()  # as in another process
    (line,) = log.read_text().splitlines()
    assert "-mamx-bf16" in line.split()
    monkeypatch.setattr(amx, "_FLAGS", (*amx._FLAGS, "-g"))
    load_amx_kernels()
    assert len(log.read_text().splitlines()) == 2
