"""Kernels for one new position: exact beside the same layer computed as for prompts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.checkpoints import Checkpoint
from runtime.devices import decode
from runtime.devices.decode import MOST_ROWS, DecodeKernels
from runtime.devices.scratch import Scratch
from tests.runtime.devices.comparing import BFLOAT16_RESULT, FLOAT32_SUM, assert_product, normal

EACH = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def kernels(checkpoint: Checkpoint, request: pytest.FixtureRequest) -> DecodeKernels:
    made = DecodeKernels.open(checkpoint, request.param, Scratch())
    if made is None:
        pytest.skip("needs a C compiler")
    return made


@given(
    rows=st.integers(1, MOST_ROWS),
    inner=st.integers(1, 300),
    columns=st.integers(1, 100),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
@EACH
def test_a_product_of_few_rows_is_its_formula(
    kernels: DecodeKernels, rows: int, inner: int, columns: int, biased: bool, seed: int
) -> None:
    dtype = kernels._dtype
    x = normal(rows, inner, seed=seed, dtype=dtype)
    weight = normal(columns, inner, seed=seed + 1, dtype=dtype)
    bias = normal(columns, seed=seed + 2) if biased else None
    out = torch.full((rows, columns), torch.nan, dtype=dtype)
    kernels.product(weight, bias, x, out)
    error = FLOAT32_SUM if dtype == torch.float32 else BFLOAT16_RESULT
    assert_product(out, x, weight, *([] if bias is None else [bias]), error=error)


def test_weights_are_read_once_and_all_or_none(
    kernels: DecodeKernels, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(decode, "layer_norms", full)
        with pytest.raises(MemoryError):
            kernels.load()
    ready = [kernels.ready]  # some of them had been read
    kernels.load()
    assert [*ready, kernels.ready] == [False, True]
    monkeypatch.setattr(decode, "stacked_linear", None)
    kernels.load()
    weight = checkpoint.tensor("model.layers.1.self_attn.o_proj.weight").to(kernels._dtype)
    bias = checkpoint.tensor("model.layers.1.self_attn.o_proj.bias").to(kernels._dtype)
    x = normal(2, weight.shape[1], seed=0, dtype=kernels._dtype)
    out = torch.full((2, len(weight)), torch.nan, dtype=kernels._dtype)
    kernels.linear(1, "o_proj", x, out)
    error = FLOAT32_SUM if kernels._dtype == torch.float32 else BFLOAT16_RESULT
    assert_product(out, x, weight, bias, error=error)


def test_without_a_compiler_there_are_none(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "compiled", lambda name, flags: None)
    assert DecodeKernels.open(checkpoint, torch.float32, Scratch()) is None
