"""The operations that are recorded from the runtime, against what can be said of them without it."""

from __future__ import annotations

from math import prod

import pytest
import torch

from perfsuite.errors import MeasurementError
from perfsuite.llama import recording
from perfsuite.llama.recording import operations
from perfsuite.llama.workload import Operation
from runtime import STAGES
from runtime.caches import Window
from runtime.checkpoints import PRESETS, ModelConfig
from runtime.forward import ForwardPass
from runtime.nonlinear import causal_softmax
from runtime.operations import linear_shapes
from tests.runtime.models import small_config

# A model of 3 layers, width 24, 6 heads of 4 with 2 of keys and values, 40 features between, 96 tokens, tied.
SMALL = small_config(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    tie_word_embeddings=True,
)
ENDS = (
    ("trusted", "embedding", "token_ids", (1, 7), 1),
    ("device", "embedding", "embedding", (7, 24), 1),
    ("trusted", "lm_head", "rms_norm", (1, 24), 1),
    ("device", "lm_head", "lm_head", (1, 24, 96), 1),
    ("trusted", "lm_head", "logits", (1, 96), 1),
)
BY_OPERATION = (
    ("trusted", "batch_linear", "rms_norm", (7, 24), 3),
    ("device", "batch_linear", "activation", (7, 24), 3),
    ("device", "batch_linear", "linear", (7, 24, 24), 3),
    ("device", "batch_linear", "linear", (7, 24, 8), 3),
    ("device", "batch_linear", "linear", (7, 24, 8), 3),
    ("trusted", "matmul", "rope", (6, 7, 4), 3),
    ("trusted", "matmul", "rope", (2, 7, 4), 3),
    ("trusted", "matmul", "split_heads", (2, 7, 4), 3),
    ("device", "matmul", "scores", (2, 21, 4, 7), 3),
    ("trusted", "matmul", "softmax", (6, 7, 7), 3),
    ("device", "matmul", "weighted", (2, 21, 7, 4), 3),
    ("trusted", "batch_linear", "join_heads", (6, 7, 4), 3),
    ("device", "batch_linear", "activation", (7, 24), 3),
    ("device", "batch_linear", "linear", (7, 24, 24), 3),
    ("trusted", "batch_linear", "add", (7, 24), 3),
    ("trusted", "batch_linear", "rms_norm", (7, 24), 3),
    ("device", "batch_linear", "activation", (7, 24), 3),
    ("device", "batch_linear", "linear", (7, 24, 40), 3),
    ("device", "batch_linear", "linear", (7, 24, 40), 3),
    ("trusted", "batch_linear", "silu_mul", (7, 40), 3),
    ("device", "batch_linear", "activation", (7, 40), 3),
    ("device", "batch_linear", "linear", (7, 40, 24), 3),
    ("trusted", "batch_linear", "add_in_place", (7, 24), 3),
)
BY_LAYER = tuple(
    ("device", "fused_layer", *row, 3)
    for row in (
        ("normed", (7, 24)),
        ("linear", (7, 24, 40)),  # 24 of queries, 8 each of keys and values
        ("rotate", (8, 7, 4)),
        ("attention", (6, 2, 7, 7, 4)),
        ("join_heads", (6, 7, 4)),
        ("activation", (7, 24)),
        ("linear_residual", (7, 24, 24)),
        ("normed", (7, 24)),
        ("linear", (7, 24, 80)),
        ("gated", (7, 40)),
        ("linear_residual", (7, 40, 24)),
    )
)
LAST = tuple(
    ("device", "all_layers", *row, 1)
    for row in (
        ("normed", (7, 24)),
        ("linear", (7, 24, 40)),
        ("rotate", (8, 7, 4)),
        ("attention", (6, 2, 1, 7, 4)),
        ("activation", (1, 24)),
        ("linear_residual", (1, 24, 24)),
        ("normed", (1, 24)),
        ("linear", (1, 24, 80)),
        ("gated", (1, 40)),
        ("linear_residual", (1, 40, 24)),
    )
)
RESIDENT = (
    ("device", "all_layers", "copy", (7, 24), 1),
    *(("device", "all_layers", kind, shape, 2) for _, _, kind, shape, _ in BY_LAYER),
    *LAST,  # of which one position is wanted
    ("device", "all_layers", "copy", (1, 24), 1),
)
RECALLED = ("device", "fused_layer", "recall", (7, 24), 3)
ROUNDED = ("device", "fused_layer", "copy", (7, 24), 3)


def flops(rows: tuple[Operation, ...], *kinds: str) -> int:
    return sum(row.flops * row.times for row in rows if row.kind in kinds)


@pytest.mark.parametrize(
    ("stage", "layer"),
    [
        ("baseline", BY_OPERATION),
        ("shared-memory", BY_OPERATION),
        ("fused", BY_LAYER),
        ("bf16", (RECALLED, *BY_LAYER, ROUNDED)),
        ("resident", RESIDENT),
    ],
)
def test_operations_of_a_small_model(stage: str, layer: tuple[object, ...]) -> None:
    rows = operations(SMALL, STAGES[stage], 7)
    found = [(row.side, row.call, row.kind, row.shape, row.times) for row in rows]
    assert found == [*ENDS[:2], *layer, *ENDS[2:]]
    assert {row.dtype for row in rows} == {STAGES[stage].dtype}
    assert {row.memory for row in rows} == {"private" if stage == "baseline" else "arena"}


def test_a_step_of_generation_attends_to_what_is_cached() -> None:
    rows = operations(SMALL, STAGES["fused"], 1, cached=6)
    assert [(row.kind, row.shape) for row in rows if row.call == "fused_layer"] == [
        ("normed", (1, 24)),
        ("linear", (1, 24, 40)),
        ("rotate", (8, 1, 4)),
        ("copy", (2, 4)),  # of keys
        ("copy", (2, 4)),
        ("attention", (6, 2, 1, 7, 4)),
        ("activation", (1, 24)),
        ("linear_residual", (1, 24, 24)),
        ("normed", (1, 24)),
        ("linear", (1, 24, 80)),
        ("gated", (1, 40)),
        ("linear_residual", (1, 40, 24)),
    ]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("tokens", [1, 3])
def test_what_follows_a_cached_text_multiplies_with_all_keys(stage: str, tokens: int) -> None:
    rows = operations(SMALL, STAGES[stage], tokens, cached=20)
    by_operation = STAGES[stage].granularity == "operation"
    last = STAGES[stage].granularity == "model"  # of its last layer one position
    # 3 layers, 6 heads of 4, two products; fused attention leaves out what comes after a token.
    seen = tokens * (20 + tokens) if by_operation else sum(range(21, 21 + tokens))
    pairs = 2 * seen + (20 + tokens if last else seen)
    assert flops(rows, "scores", "weighted", "attention") == 2 * 2 * 6 * 4 * pairs
    assert [row.shape for row in rows if row.kind == "lm_head"] == [(1, 24, 96)]


@pytest.fixture
def config() -> ModelConfig:
    """The model of the analysis."""
    config = PRESETS["llama-1b"].config
    assert config is not None
    return config


@pytest.mark.parametrize("stage", STAGES)
def test_linear_layers_multiply_each_weight_with_each_token(
    config: ModelConfig, stage: str
) -> None:
    shapes = linear_shapes(config)
    products = 1024 * config.num_layers * sum(map(prod, shapes.values()))
    if STAGES[stage].granularity == "model":  # keys and values, and the rest of one position
        products -= 1023 * sum(
            prod(shapes[name]) for name in ("o_proj", "gate_proj", "up_proj", "down_proj")
        )
    rows = operations(config, STAGES[stage], 1024)
    assert flops(rows, "linear", "linear_residual") == 2 * products


def test_attention_by_operations_computes_both_triangles(config: ModelConfig) -> None:
    rows = operations(config, STAGES["shared-memory"], 1024)
    # 32 heads of 64, 16 layers: two products of 1,024 x 1,024.
    assert flops(rows, "scores", "weighted") == 16 * 2 * 32 * 2 * 1024 * 1024 * 64


def test_fused_attention_computes_one_triangle(config: ModelConfig) -> None:
    rows = operations(config, STAGES["fused"], 1024)
    assert flops(rows, "attention") == 16 * 2 * 32 * 1024 * 1025 * 64


def test_grouped_heads_change_bytes_but_no_products(config: ModelConfig) -> None:
    grouped = PRESETS["llama-3.2-1b"].config
    assert grouped is not None
    for stage in STAGES.values():
        alone, shared = (operations(each, stage, 64) for each in (config, grouped))
        kinds = ("scores", "weighted", "attention")
        assert flops(alone, *kinds) == flops(shared, *kinds)
        assert sum(row.bytes for row in shared) < sum(row.bytes for row in alone)


@pytest.mark.parametrize("stage", ["shared-memory", "fused"])
def test_biases_and_scaled_angles_change_nothing(stage: str) -> None:
    rope = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
    other = small_config(attention_bias=True, mlp_bias=True, rope_parameters=rope)
    row = STAGES[stage]
    assert operations(other, row, 5) == operations(small_config(), row, 5)


def test_one_token_s_heads_are_not_copied_where_they_lie_in_order() -> None:
    kinds = {row.kind for row in operations(SMALL, STAGES["fused"], 1)}
    assert "join_heads" not in kinds
    assert "attention" in kinds


def test_what_has_no_kind_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    recording._recorded.cache_clear()
    original = ForwardPass._normed

    def longer(self: ForwardPass, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return original(self, x, weight).exp()

    monkeypatch.setattr(ForwardPass, "_normed", longer)
    with pytest.raises(MeasurementError, match=r"^exp on the trusted side"):
        operations(SMALL, STAGES["shared-memory"], 9)


def test_layers_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ForwardPass._layer_at_once

    def longer(self: ForwardPass, layer: int, hidden: torch.Tensor, window: Window) -> torch.Tensor:
        hidden = original(self, layer, hidden, window)
        return hidden.add_(hidden) if layer == 1 else hidden

    monkeypatch.setattr(
        "runtime.forward._LAYERS", {"layer": longer, "operation": ForwardPass._layer_by_operations}
    )
    with pytest.raises(MeasurementError, match="stage fused: its layers differ"):
        operations(SMALL, STAGES["fused"], 10)


def test_recording_leaves_nothing_that_a_real_forward_would_find() -> None:
    operations(SMALL, STAGES["shared-memory"], 11)
    weights = causal_softmax(torch.zeros(1, 11, 11), torch.empty(1, 11, 11))
    assert torch.allclose(weights[0, 3], torch.tensor([0.25] * 4 + [0.0] * 7))
