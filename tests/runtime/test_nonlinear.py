"""The operations between the matrix products, against their plain formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from runtime.nonlinear import apply_rope, causal_softmax, rms_norm, silu_mul

DTYPES = (torch.float32, torch.bfloat16)
# Two roundings of the result at most.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7}

RANDOM = settings(max_examples=40, deadline=None, derandomize=True)

seeds = st.integers(0, 10_000)
scales = st.sampled_from((1e-3, 1.0, 50.0))


def normal(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def assert_near(actual: torch.Tensor, exact: torch.Tensor, rel: float) -> None:
    """Within ``rel`` of the exact value, or of a thousandth of the largest."""
    assert actual.shape == exact.shape
    floor = exact.abs().max() * 1e-3
    assert bool(((actual - exact).abs() <= rel * exact.abs().clamp(min=floor)).all())


# RMSNorm


@given(
    rows=st.integers(1, 40),
    features=st.integers(1, 300),
    eps=st.sampled_from((1e-6, 1e-5, 1e-2)),
    dtype=st.sampled_from(DTYPES),
    scale=scales,
    seed=seeds,
)
@RANDOM
def test_rms_norm_is_its_formula(
    rows: int, features: int, eps: float, dtype: torch.dtype, scale: float, seed: int
) -> None:
    x = normal(2, rows, features, seed=seed, scale=scale).to(dtype)
    weight = (normal(features, seed=seed + 1) + 1).to(dtype)
    out = torch.full_like(x, torch.nan)
    before = x.clone()
    assert rms_norm(x, weight, eps, out) is out
    assert torch.equal(x, before)
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    assert_near(out, exact, 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_is_that_of_transformers(dtype: torch.dtype) -> None:
    x, weight = normal(3, 20, 96, seed=0).to(dtype), (normal(96, seed=1) + 1).to(dtype)
    theirs = LlamaRMSNorm(96, eps=1e-5).to(dtype)
    theirs.weight.data.copy_(weight)
    with torch.no_grad():
        expected = theirs(x)
    assert_near(rms_norm(x, weight, 1e-5, torch.empty_like(x)), expected.double(), TOLERANCE[dtype])


def test_rms_norm_of_a_last_position_only() -> None:
    x, weight = normal(3, 7, 16, seed=0), normal(16, seed=1)
    last = rms_norm(x[:, -1], weight, 1e-5, torch.empty(3, 16))
    assert torch.equal(last, rms_norm(x, weight, 1e-5, torch.empty_like(x))[:, -1])


def test_rms_norm_of_zeros_is_zero() -> None:
    out = rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6, torch.full((2, 8), torch.nan))
    assert torch.equal(out, torch.zeros(2, 8))


def test_rms_norm_of_large_bfloat16_does_not_overflow() -> None:
    x = torch.full((1, 64), 1e18, dtype=torch.bfloat16)
    out = rms_norm(x, torch.ones(64, dtype=torch.bfloat16), 1e-6, torch.empty_like(x))
    assert_near(out, torch.ones(1, 64).double(), TOLERANCE[torch.bfloat16])


# RoPE


def angles(tokens: int, half: int) -> torch.Tensor:
    return torch.arange(tokens)[:, None] * 100.0 ** -(torch.arange(half) / half)


@given(
    heads=st.integers(1, 4),
    tokens=st.integers(1, 40),
    half=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES),
    seed=seeds,
)
@RANDOM
def test_rope_is_that_of_transformers_and_keeps_norms(
    heads: int, tokens: int, half: int, dtype: torch.dtype, seed: int
) -> None:
    x = normal(2, heads, tokens, 2 * half, seed=seed).to(dtype)
    cos, sin = angles(tokens, half).cos().to(dtype), angles(tokens, half).sin().to(dtype)
    before = x.clone()
    out = torch.full_like(x, torch.nan)
    assert apply_rope(x, cos, sin, out) is out
    assert torch.equal(x, before)
    # Theirs in double precision, on the very tables that ours was given.
    whole_cos, whole_sin = (torch.cat((table, table), -1).double() for table in (cos, sin))
    expected, _ = apply_rotary_pos_emb(x.double(), x.double(), whole_cos[None], whole_sin[None])
    largest = float(x.abs().max())
    assert float((out - expected).abs().max()) <= 2 * TOLERANCE[dtype] * largest
    norms, wanted = out.double().norm(dim=-1), x.double().norm(dim=-1)
    torch.testing.assert_close(norms, wanted, rtol=3 * TOLERANCE[dtype], atol=1e-6)


def test_rope_leaves_the_first_token_alone() -> None:
    x = normal(1, 2, 5, 8, seed=0)
    out = apply_rope(x, angles(5, 4).cos(), angles(5, 4).sin(), torch.empty_like(x))
    assert torch.equal(out[:, :, 0], x[:, :, 0])
    assert not torch.equal(out[:, :, 1], x[:, :, 1])


@given(shift=st.integers(0, 20), distance=st.integers(0, 10), seed=seeds)
@RANDOM
def test_rope_makes_scores_depend_on_distance_alone(shift: int, distance: int, seed: int) -> None:
    query, key = normal(16, seed=seed), normal(16, seed=seed + 1)
    cos, sin = angles(40, 8).cos(), angles(40, 8).sin()
    queries, keys = (
        apply_rope(vector.expand(1, 40, 16), cos, sin, torch.empty(1, 40, 16))[0]
        for vector in (query, key)
    )
    here = queries[distance] @ keys[0]
    there = queries[distance + shift] @ keys[shift]
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)


def test_rope_writes_into_strided_views() -> None:
    x = normal(2, 6, 3, 8, seed=0)  # tokens before heads, as projections leave them
    cos, sin = angles(6, 4).cos(), angles(6, 4).sin()
    into = torch.full((2, 6, 5, 8), torch.nan)
    apply_rope(x.transpose(1, 2), cos, sin, into[:, :, 1:4].transpose(1, 2))
    plain = x.transpose(1, 2).contiguous()
    expected = apply_rope(plain, cos, sin, torch.empty_like(plain))
    assert torch.equal(into[:, :, 1:4].transpose(1, 2), expected)
    assert bool(into[:, :, [0, 4]].isnan().all())


# Softmax

lengths = st.one_of(st.integers(1, 40), st.sampled_from((63, 64, 65, 127, 128, 129, 200)))


@given(heads=st.integers(1, 4), tokens=lengths, scale=scales, seed=seeds)
@RANDOM
def test_causal_softmax_is_its_formula(heads: int, tokens: int, scale: float, seed: int) -> None:
    scores = normal(heads, tokens, tokens, seed=seed, scale=scale)
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    exact = torch.softmax(scores.double().masked_fill(future, -torch.inf), dim=-1)
    out = torch.full_like(scores, torch.nan)
    assert causal_softmax(scores, out) is out
    assert torch.equal(out[:, future], torch.zeros_like(out[:, future]))
    torch.testing.assert_close(
        out.double().sum(-1), torch.ones(heads, tokens).double(), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tokens", [1, 64, 65, 200])
@pytest.mark.parametrize("value", [-1e30, -1e4, 0.0, 1e4, 1e30])
def test_causal_softmax_of_equal_scores_is_uniform(tokens: int, value: float) -> None:
    out = causal_softmax(
        torch.full((2, tokens, tokens), value), torch.full((2, tokens, tokens), torch.nan)
    )
    uniform = torch.ones(tokens, tokens).tril() / torch.arange(1, tokens + 1)[:, None]
    torch.testing.assert_close(out, uniform.expand_as(out), rtol=1e-5, atol=0)


@pytest.mark.parametrize("tokens", [1, 64, 65, 200])
def test_causal_softmax_leaves_the_scores_as_they_are(tokens: int) -> None:
    # They may lie in a message's immutable bytes.
    scores = normal(2, tokens, tokens, seed=0)
    before = scores.clone()
    causal_softmax(scores, torch.empty_like(scores))
    assert torch.equal(scores, before)


def test_causal_softmax_does_not_read_the_future() -> None:
    past = normal(2, 100, 100, seed=0)
    future = torch.ones(100, 100, dtype=torch.bool).triu(1)
    answers = [
        causal_softmax(past.masked_fill(future, value), torch.empty_like(past))
        for value in (-1e30, 0.0, 1e30)
    ]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


# SiLU


@given(
    rows=st.integers(1, 20),
    features=st.integers(1, 100),
    dtype=st.sampled_from(DTYPES),
    scale=scales,
    seed=seeds,
)
@RANDOM
def test_silu_mul_is_its_formula(
    rows: int, features: int, dtype: torch.dtype, scale: float, seed: int
) -> None:
    both = normal(rows, 2 * features, seed=seed, scale=scale).to(dtype)
    gate, up = both.chunk(2, dim=-1)  # views, as a stacked projection leaves them
    before = both.clone()
    out = torch.full((rows, features), torch.nan, dtype=dtype)
    assert silu_mul(gate, up, out) is out
    assert torch.equal(both, before)
    wide = gate.double()
    exact = wide * torch.sigmoid(wide) * up.double()
    assert_near(out, exact, 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul_of_extreme_gates(dtype: torch.dtype) -> None:
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], dtype=dtype)
    out = silu_mul(gate, torch.ones_like(gate), torch.empty_like(gate))
    assert torch.equal(out, torch.where(gate > 0, gate, torch.zeros_like(gate)))
