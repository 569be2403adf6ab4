"""What a worker can be asked: shapes that follow, and refusals that name the field."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ProtocolError
from runtime.operations import SIGNATURES, Call, linear_shapes, output_specs
from runtime.rope import max_length
from runtime.tensors import TensorSpec
from tests.runtime.models import small_config

# 2 layers, 4 heads of 16 that share 2 key heads, hidden 48, inner 80, 96 token ids, 64 positions.
CONFIG = small_config()


def floats(*shape: int) -> TensorSpec:
    return TensorSpec(torch.float32, shape)


def ids(*shape: int) -> TensorSpec:
    return TensorSpec(torch.int64, shape)


def halves(*shape: int) -> TensorSpec:
    return TensorSpec(torch.bfloat16, shape)


def linear(*modules: str) -> Call:
    return Call("batch_linear", 0, modules)


QK = Call("matmul", 0, transpose_b=True)
AV = Call("matmul", 1)

ACCEPTED: dict[str, tuple[Call, list[TensorSpec], list[tuple[int, ...]]]] = {
    "embedding": (Call("embedding"), [ids(3, 64)], [(3, 64, 48)]),
    "q, k, v": (
        linear("q_proj", "k_proj", "v_proj"),
        [floats(2, 5, 48)],
        [(2, 5, 64), (2, 5, 32), (2, 5, 32)],
    ),
    "o": (linear("o_proj"), [floats(2, 5, 64)], [(2, 5, 48)]),
    "gate, up": (linear("gate_proj", "up_proj"), [floats(1, 64, 48)], [(1, 64, 80), (1, 64, 80)]),
    "down": (linear("down_proj"), [floats(1, 1, 80)], [(1, 1, 48)]),
    "Q K^T": (QK, [floats(4, 128, 16), floats(4, 64, 16)], [(4, 128, 64)]),
    "attention weights V": (AV, [floats(4, 128, 64), floats(4, 64, 16)], [(4, 128, 16)]),
    "fused_layer": (Call("fused_layer", 1), [floats(2, 64, 48)], [(2, 64, 48)]),
    "all_layers": (Call("all_layers"), [floats(2, 64, 48)], [(2, 48)]),
    "lm_head": (Call("lm_head"), [floats(3, 48)], [(3, 96)]),
    "open_cache": (Call("open_cache"), [], []),
    "trim_cache": (Call("trim_cache"), [], []),
    "close_cache": (Call("close_cache"), [], []),
    "ping": (Call("ping"), [], []),
}

# Of 20 positions in a cache, with those that the call appends.
ACCEPTED_OVER_CACHE: dict[str, tuple[Call, list[TensorSpec], list[tuple[int, ...]]]] = {
    "Q K^T, one more": (QK, [floats(4, 2, 16), floats(4, 1, 16)], [(4, 2, 20)]),
    "Q K^T, all of them": (QK, [floats(4, 40, 16), floats(4, 20, 16)], [(4, 40, 20)]),
    "attention weights V": (AV, [floats(4, 6, 20), floats(4, 3, 16)], [(4, 6, 16)]),
    "fused_layer": (Call("fused_layer", 1), [floats(2, 3, 48)], [(2, 3, 48)]),
    "all_layers": (Call("all_layers"), [floats(2, 3, 48)], [(2, 48)]),
    "next_logits": (Call("next_logits"), [ids(2, 1)], [(2, 96)]),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_shapes_follow_from_the_inputs(what: str) -> None:
    call, inputs, shapes = ACCEPTED[what]
    specs = output_specs(CONFIG, torch.float32, call, inputs)
    assert [spec.shape for spec in specs] == shapes
    assert all(spec.dtype == torch.float32 for spec in specs)


def test_every_operation_is_tried_here() -> None:
    tried = (*ACCEPTED.values(), *ACCEPTED_OVER_CACHE.values())
    assert {call.operation for call, _, _ in tried} == set(SIGNATURES)


@pytest.mark.parametrize("what", ACCEPTED_OVER_CACHE)
def test_results_over_a_cache_follow_from_its_positions(what: str) -> None:
    call, inputs, shapes = ACCEPTED_OVER_CACHE[what]
    specs = output_specs(CONFIG, torch.float32, call, inputs, 20)
    assert list(specs) == [floats(*shape) for shape in shapes]
    if SIGNATURES[call.operation].needs_cache:
        with pytest.raises(ProtocolError) as caught:
            output_specs(CONFIG, torch.float32, call, inputs)
        assert caught.value.field == "cache"


REFUSED_OVER_CACHE: dict[str, tuple[Call, list[TensorSpec], str]] = {
    "an operation that appends nothing": (Call("embedding"), [ids(1, 1)], "cache"),
    "linear layers": (linear("o_proj"), [floats(1, 1, 64)], "cache"),
    "the cache itself": (Call("close_cache"), [], "cache"),
    "more rows than positions": (QK, [floats(4, 42, 16), floats(4, 21, 16)], "inputs[1].shape"),
    "keys of another size": (QK, [floats(4, 2, 8), floats(4, 1, 8)], "inputs[1].shape"),
    "keys of another rank": (QK, [floats(4, 2, 16), floats(4, 16)], "inputs[1].shape"),
    "queries of other heads": (QK, [floats(4, 3, 16), floats(4, 1, 16)], "inputs[0].shape"),
    "queries of another batch": (QK, [floats(2, 2, 16), floats(4, 1, 16)], "inputs[0].shape"),
    "weights of fewer positions": (AV, [floats(4, 2, 19), floats(4, 1, 16)], "inputs[0].shape"),
    "weights of more positions": (AV, [floats(4, 2, 21), floats(4, 1, 16)], "inputs[0].shape"),
}


@pytest.mark.parametrize("what", REFUSED_OVER_CACHE)
def test_what_does_not_fit_a_cache_is_refused_by_name(what: str) -> None:
    call, inputs, field = REFUSED_OVER_CACHE[what]
    with pytest.raises(ProtocolError) as caught:
        output_specs(CONFIG, torch.float32, call, inputs, 20)
    assert caught.value.field == field


@pytest.mark.parametrize("what", ACCEPTED)
def test_results_have_the_stage_s_element_type(what: str) -> None:
    call, inputs, shapes = ACCEPTED[what]
    halved = [spec if spec.dtype == torch.int64 else halves(*spec.shape) for spec in inputs]
    specs = output_specs(CONFIG, torch.bfloat16, call, halved)
    assert list(specs) == [halves(*shape) for shape in shapes]


REFUSED: dict[str, tuple[Call, list[TensorSpec], str]] = {
    "an unknown operation": (Call("softmax", 0), [floats(1, 1, 48)], "operation"),
    "an operation without a name": (Call(""), [], "operation"),
    # layer
    "a layer where none belongs": (Call("embedding", 0), [ids(1, 1)], "layer"),
    "a layer for lm_head": (Call("lm_head", 1), [floats(1, 48)], "layer"),
    "a layer for ping": (Call("ping", 0), [], "layer"),
    "no layer for a layer's operation": (Call("fused_layer"), [floats(1, 1, 48)], "layer"),
    "a negative layer": (Call("fused_layer", -1), [floats(1, 1, 48)], "layer"),
    "a layer beyond the last": (Call("fused_layer", 2), [floats(1, 1, 48)], "layer"),
    "no layer for matmul": (Call("matmul"), [floats(1, 1, 1), floats(1, 1, 1)], "layer"),
    # modules
    "modules for an operation without": (
        Call("fused_layer", 0, ("q_proj",)),
        [floats(1, 1, 48)],
        "modules",
    ),
    "no modules": (linear(), [floats(1, 1, 48)], "modules"),
    "a module twice": (linear("q_proj", "q_proj"), [floats(1, 1, 48)], "modules"),
    "an unknown module": (linear("q_proj", "z_proj"), [floats(1, 1, 48)], "modules"),
    "modules of different inputs": (linear("q_proj", "down_proj"), [floats(1, 1, 48)], "modules"),
    # transpose_b
    "transposing without a matmul": (
        Call("lm_head", transpose_b=True),
        [floats(1, 48)],
        "transpose_b",
    ),
    # inputs
    "no input": (Call("lm_head"), [], "inputs"),
    "an input too many": (Call("lm_head"), [floats(1, 48), floats(1, 48)], "inputs"),
    "an input for ping": (Call("ping"), [floats(1, 48)], "inputs"),
    "one matrix to multiply": (AV, [floats(1, 4, 4)], "inputs"),
    # element types
    "float token ids": (Call("embedding"), [floats(1, 4)], "inputs[0].dtype"),
    "integer hidden states": (Call("fused_layer", 0), [ids(1, 4, 48)], "inputs[0].dtype"),
    "another stage's element type": (Call("lm_head"), [halves(1, 48)], "inputs[0].dtype"),
    "a second input of another type": (
        AV,
        [floats(2, 4, 4), halves(2, 4, 16)],
        "inputs[1].dtype",
    ),
    # shapes
    "ids of one dimension": (Call("embedding"), [ids(4)], "inputs[0].shape"),
    "ids of three dimensions": (Call("embedding"), [ids(1, 1, 4)], "inputs[0].shape"),
    "a prompt beyond the positions": (Call("embedding"), [ids(1, 65)], "inputs[0].shape"),
    "linear without a batch": (linear("q_proj"), [floats(4, 48)], "inputs[0].shape"),
    "linear of other features": (linear("q_proj"), [floats(1, 4, 64)], "inputs[0].shape"),
    "linear beyond the positions": (linear("q_proj"), [floats(1, 65, 48)], "inputs[0].shape"),
    "a layer of other features": (Call("fused_layer", 0), [floats(1, 4, 47)], "inputs[0].shape"),
    "a layer beyond the positions": (
        Call("fused_layer", 0),
        [floats(1, 65, 48)],
        "inputs[0].shape",
    ),
    "a layer without a batch": (Call("fused_layer", 0), [floats(4, 48)], "inputs[0].shape"),
    "lm_head of all positions": (Call("lm_head"), [floats(1, 4, 48)], "inputs[0].shape"),
    "lm_head of other features": (Call("lm_head"), [floats(1, 80)], "inputs[0].shape"),
    "a flat first matrix": (AV, [floats(4, 4), floats(1, 4, 16)], "inputs[0].shape"),
    "a flat second matrix": (AV, [floats(1, 4, 4), floats(4, 16)], "inputs[1].shape"),
    "different numbers of matrices": (AV, [floats(2, 4, 4), floats(3, 4, 16)], "inputs[1].shape"),
    "inner sizes that differ": (AV, [floats(2, 4, 5), floats(2, 4, 16)], "inputs[1].shape"),
    "inner sizes that differ transposed": (
        QK,
        [floats(2, 4, 16), floats(2, 16, 4)],
        "inputs[1].shape",
    ),
    "more rows than heads share a key": (
        QK,
        [floats(1, 129, 16), floats(1, 64, 16)],
        "inputs[0].shape",
    ),
    "more keys than positions": (QK, [floats(1, 64, 16), floats(1, 65, 16)], "inputs[1].shape"),
    "a thin product with a huge result": (
        AV,
        [floats(1, 100_000, 1), floats(1, 1, 100_000)],
        "inputs[0].shape",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_names_its_field(what: str) -> None:
    call, inputs, field = REFUSED[what]
    with pytest.raises(ProtocolError) as caught:
        output_specs(CONFIG, torch.float32, call, inputs)
    assert caught.value.field == field
    assert caught.value.problem
    assert str(caught.value) == f"{field}: {caught.value.problem}"


dimensions = st.one_of(
    st.sampled_from((1, 2, 16, 32, 48, 64, 65, 80, 96, 128, 2**31, 2**62)), st.integers(1, 200)
)
tensors = st.builds(
    TensorSpec,
    st.sampled_from((torch.float32, torch.bfloat16, torch.int64)),
    st.lists(dimensions, min_size=1, max_size=4).map(tuple),
)
calls = st.builds(
    Call,
    st.one_of(st.sampled_from(tuple(SIGNATURES)), st.text(max_size=8)),
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 1)),
    st.lists(st.one_of(st.sampled_from(tuple(linear_shapes(CONFIG))), st.text(max_size=8))).map(
        tuple
    ),
    st.booleans(),
)


@given(call=calls, inputs=st.lists(tensors, max_size=3))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_call_is_answered_or_refused(call: Call, inputs: list[TensorSpec]) -> None:
    field = ""
    specs: tuple[TensorSpec, ...] = ()
    try:
        specs = output_specs(CONFIG, torch.float32, call, inputs)
    except ProtocolError as error:
        field = re.split(r"[.[]", error.field)[0]
    assert field in {"", "operation", "layer", "modules", "transpose_b", "inputs"}
    for spec in specs:
        assert spec.dtype == torch.float32
        assert all(dimension >= 1 for dimension in spec.shape)


@given(
    matrices=dimensions, rows=dimensions, inner=dimensions, columns=dimensions, data=st.booleans()
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_product_is_never_larger_than_attention_needs(
    matrices: int, rows: int, inner: int, columns: int, data: bool
) -> None:
    second = floats(matrices, columns, inner) if data else floats(matrices, inner, columns)
    call = Call("matmul", 0, transpose_b=data)
    try:
        (spec,) = output_specs(CONFIG, torch.float32, call, [floats(matrices, rows, inner), second])
    except ProtocolError:
        return
    positions, group = max_length(CONFIG), CONFIG.num_heads // CONFIG.num_kv_heads
    assert spec.shape[1] <= positions * group
    assert spec.shape[2] <= positions


def test_linear_shapes_are_those_of_the_weights() -> None:
    expected: dict[str, Any] = {
        "q_proj": (48, 64),
        "k_proj": (48, 32),
        "v_proj": (48, 32),
        "o_proj": (64, 48),
        "gate_proj": (48, 80),
        "up_proj": (48, 80),
        "down_proj": (80, 48),
    }
    assert dict(linear_shapes(CONFIG)) == expected
