"""The CPU's kernels, one formula each, whichever of them a processor has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.devices.amx import AmxKernels, load_amx_kernels
from runtime.devices.cpu import has_bfloat16_products
from runtime.devices.layer_kernels import Activation, LayerKernels, TorchKernels
from runtime.devices.onednn import OneDnnKernels, has_onednn
from runtime.devices.scratch import Scratch
from tests.runtime.devices.comparing import (
    ATTENTIONS,
    BFLOAT16_RESULT,
    FLOAT32_PRODUCT,
    RANDOM,
    SPLIT_PRODUCT,
    Kernels,
    assert_causal_attention,
    assert_product,
)

# Tiles are 32 rows by 32 columns over 32 inner elements, and kernels work in blocks of those.
row_counts = st.one_of(st.integers(1, 100), st.sampled_from((255, 256, 257, 513)))
inner_sizes = st.one_of(st.integers(1, 300), st.sampled_from((1023, 1024, 1025, 1056, 2080)))
column_counts = st.integers(1, 100)
seeds = st.integers(0, 1000)


@pytest.fixture(
    scope="module",
    params=[
        (kernels, dtype)
        for kernels in ("torch", "onednn", "amx")
        for dtype in (torch.float32, torch.bfloat16)
    ],
    ids=lambda drawn: f"{drawn[0]}-{str(drawn[1]).removeprefix('torch.')}",
)
def tested(request: pytest.FixtureRequest) -> Kernels:
    kernels, dtype = request.param
    error = FLOAT32_PRODUCT if dtype == torch.float32 else BFLOAT16_RESULT
    if kernels == "torch":
        return Kernels(kernels, dtype, error, lambda: TorchKernels(dtype, Scratch()))
    if kernels == "onednn":
        if not has_onednn():
            pytest.skip("needs a torch that is built with oneDNN")
        if dtype == torch.bfloat16 and not has_bfloat16_products():
            pytest.skip("needs a processor that multiplies bfloat16")
        return Kernels(kernels, dtype, error, lambda: OneDnnKernels(dtype, Scratch()))
    library = load_amx_kernels()
    if library is None:
        pytest.skip("needs a processor with matrix tiles (AMX) and a C compiler")
    if dtype == torch.float32:
        error = SPLIT_PRODUCT
    return Kernels(kernels, dtype, error, lambda: AmxKernels(dtype, Scratch(), library))


def values_of(kernels: LayerKernels, activation: Activation, like: torch.Tensor) -> torch.Tensor:
    """An activation's values, in the shape and type of ``like``: multiplied by one."""
    identity = torch.eye(like.shape[1], dtype=like.dtype)
    out = torch.full_like(like, torch.nan)
    kernels.linear(activation, kernels.pack(identity, None), out)
    return out


def assert_values(actual: torch.Tensor, exact: torch.Tensor, error: float) -> None:
    """Each value is within ``error`` of itself; tiny ones, of a thousandth of the largest."""
    size = exact.abs().clamp(min=float(exact.abs().max()) * 1e-3)
    assert bool(((actual.double() - exact).abs() <= error * size).all())


@given(
    rows=row_counts,
    inner=inner_sizes,
    columns=column_counts,
    biased=st.booleans(),
    residual=st.sampled_from((None, "apart", "in place")),
    seed=seeds,
)
@RANDOM
def test_linear_is_its_formula(
    tested: Kernels,
    rows: int,
    inner: int,
    columns: int,
    biased: bool,
    residual: str | None,
    seed: int,
) -> None:
    kernels = tested.make()
    x, weight = tested.normal(rows, inner, seed=seed), tested.normal(columns, inner, seed=seed + 1)
    bias = tested.normal(columns, seed=seed + 2) if biased else None
    before = tested.normal(rows, columns, seed=seed + 3)
    out = before.clone() if residual == "in place" else torch.full_like(before, torch.nan)
    given_residual = {None: None, "apart": before.clone(), "in place": out}[residual]

    x_before, weight_before = x.clone(), weight.clone()
    kernels.linear(kernels.activation(x), kernels.pack(weight, bias), out, given_residual)

    added = ([] if bias is None else [bias]) + ([] if residual is None else [before])
    assert_product(out, x, weight, *added, error=tested.error)
    assert torch.equal(x, x_before)
    assert torch.equal(weight, weight_before)
    if residual == "apart":
        assert given_residual is not None
        assert torch.equal(given_residual, before)


def test_linear_writes_nothing_beyond_its_result(tested: Kernels) -> None:
    kernels = tested.make()
    x, weight = tested.normal(33, 40, seed=0), tested.normal(50, 40, seed=1)
    room = torch.full((100, 50), 7.0, dtype=tested.dtype)
    kernels.linear(kernels.activation(x), kernels.pack(weight, None), room[30:63])
    assert_product(room[30:63], x, weight, error=tested.error)
    assert bool((room[:30] == 7).all())
    assert bool((room[63:] == 7).all())


def test_linear_makes_its_own_place_where_none_is_given(tested: Kernels) -> None:
    kernels = tested.make()
    x, weight = tested.normal(33, 40, seed=0), tested.normal(50, 40, seed=1)
    bias = tested.normal(50, seed=2)
    made = kernels.linear(kernels.activation(x), kernels.pack(weight, bias))
    assert made.dtype == kernels.dtype
    assert_product(made, x, weight, bias, error=tested.error)


def test_layers_may_share_an_activation(tested: Kernels) -> None:
    kernels = tested.make()
    x = tested.normal(64, 48, seed=0)
    weights = [tested.normal(columns, 48, seed=columns) for columns in (64, 32, 80)]
    packed = [kernels.pack(weight, None) for weight in weights]
    shared = kernels.activation(x)
    for weight, linear in zip(weights, packed, strict=True):
        out = torch.full((64, len(weight)), torch.nan, dtype=tested.dtype)
        kernels.linear(shared, linear, out)
        assert_product(out, x, weight, error=tested.error)


def test_what_was_in_memory_before_does_not_matter(tested: Kernels) -> None:
    kernels = tested.make()
    weight = kernels.pack(tested.normal(40, 50, seed=1), None)
    x = tested.normal(33, 50, seed=0)
    fresh, used = (torch.full((33, 40), torch.nan, dtype=tested.dtype) for _ in range(2))
    kernels.linear(kernels.activation(x), weight, fresh)
    nans = torch.full((200, 300), torch.nan, dtype=tested.dtype)
    kernels.activation(nans)
    kernels.normed(nans, nans[0], 1e-5)
    kernels.gated(nans)
    kernels.linear(kernels.activation(x), weight, used)
    assert torch.equal(fresh, used)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e15])
def test_products_are_as_exact_at_any_size(tested: Kernels, scale: float) -> None:
    kernels = tested.make()
    x, weight = tested.normal(64, 100, seed=0) * scale, tested.normal(50, 100, seed=1)
    out = torch.full((64, 50), torch.nan, dtype=tested.dtype)
    kernels.linear(kernels.activation(x), kernels.pack(weight, None), out)
    assert_product(out, x, weight, error=tested.error)


@pytest.mark.parametrize("shape", ATTENTIONS)
def test_attention_is_causal_and_each_head_has_its_keys(
    tested: Kernels, shape: tuple[int, int, int, int, int]
) -> None:
    assert_causal_attention(tested.make().attended, tested.dtype, shape)


@given(rows=st.integers(1, 100), features=st.integers(1, 200), seed=seeds)
@RANDOM
def test_an_activation_holds_its_rows(tested: Kernels, rows: int, features: int, seed: int) -> None:
    kernels = tested.make()
    x = tested.normal(rows, features, seed=seed)
    assert_values(values_of(kernels, kernels.activation(x), x), x.double(), tested.error)


@given(
    rows=st.integers(1, 100),
    features=st.integers(1, 300),
    scale=st.sampled_from((1e-3, 1.0, 1e3)),
    eps=st.sampled_from((1e-6, 1e-2)),
    seed=seeds,
)
@RANDOM
def test_normed_is_its_formula(
    tested: Kernels, rows: int, features: int, scale: float, eps: float, seed: int
) -> None:
    kernels = tested.make()
    x = tested.normal(rows, features, seed=seed) * scale
    weight = tested.normal(features, seed=seed + 1)
    before = x.clone()
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    actual = values_of(kernels, kernels.normed(x, weight, eps), x)
    assert_values(actual, exact, 3 * tested.error)
    assert torch.equal(x, before)


@given(
    rows=st.integers(1, 100),
    features=st.integers(1, 200),
    scale=st.sampled_from((1e-3, 1.0, 30.0)),
    seed=seeds,
)
@RANDOM
def test_gated_is_its_formula(
    tested: Kernels, rows: int, features: int, scale: float, seed: int
) -> None:
    kernels = tested.make()
    x = tested.normal(rows, 2 * features, seed=seed) * scale
    before = x.clone()
    gate, up = x.double().chunk(2, dim=-1)
    exact = gate * torch.sigmoid(gate) * up
    actual = values_of(kernels, kernels.gated(x), x[:, :features].contiguous())
    assert_values(actual, exact, 3 * tested.error)
    assert torch.equal(x, before)


def test_gated_of_extreme_gates(tested: Kernels) -> None:
    kernels = tested.make()
    gate = torch.tensor([[-1e10, -1e4, -100.0, -88.5, 0.0, 88.5, 100.0, 1e4, 1e10]]).to(
        tested.dtype
    )
    out = values_of(kernels, kernels.gated(torch.cat((gate, torch.ones_like(gate)), -1)), gate)
    expected = gate.clamp(min=0).double()
    assert bool(((out.double() - expected).abs() <= tested.error * expected + 1e-30).all())


@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 40),
    heads=st.integers(1, 4),
    others=st.integers(0, 3),
    half=st.integers(1, 40),
    seed=seeds,
)
@RANDOM
def test_rotated_turns_the_first_heads(
    tested: Kernels, batch: int, tokens: int, heads: int, others: int, half: int, seed: int
) -> None:
    kernels = tested.make()
    x = tested.normal(batch, tokens, heads + others, 2 * half, seed=seed)
    angles = torch.arange(tokens)[:, None] * 100.0 ** -(torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()
    left, right = x[:, :, :heads].double().chunk(2, dim=-1)
    c, s = cos[:, None].double(), sin[:, None].double()
    exact = torch.cat((left * c - right * s, right * c + left * s), dim=-1)
    untouched = x[:, :, heads:].clone()
    rotated = kernels.rotated(x, heads, cos, sin).transpose(1, 2)
    assert torch.equal(x[:, :, heads:], untouched)
    # Rounded are the tables, each product, and the sum.
    allowed = 3 * tested.error * float(exact.abs().max())
    assert float((rotated.double() - exact).abs().max()) <= allowed
