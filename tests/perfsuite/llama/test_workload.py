from __future__ import annotations

from math import prod

import pytest

from perfsuite.llama.workload import Operation, operations
from runtime import STAGES
from runtime.checkpoints import PRESETS, ModelConfig
from runtime.operations import linear_shapes


@pytest.fixture
def config() -> ModelConfig:
    """The model of the analysis."""
    config = PRESETS["llama-1b"].config
    assert config is not None
    return config


def flops(rows: tuple[Operation, ...], *kinds: str) -> int:
    return sum(row.flops * row.times for row in rows if row.kind in kinds)


@pytest.mark.parametrize("stage", STAGES)
def test_linear_layers_multiply_each_weight_with_each_token(
    config: ModelConfig, stage: str
) -> None:
    weights = sum(map(prod, linear_shapes(config).values())) * config.num_layers
    rows = operations(config, STAGES[stage], 1024)
    assert flops(rows, "linear", "linear_residual") == 2 * 1024 * weights


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


def test_a_narrower_type_halves_the_bytes() -> None:
    rows = [
        Operation("device", "", "linear", (3, 5, 7), dtype, "arena")
        for dtype in ("float32", "bfloat16")
    ]
    assert [row.bytes for row in rows] == [4 * (15 + 35 + 21), 2 * (15 + 35 + 21)]


def test_results_lie_where_the_transport_puts_them(config: ModelConfig) -> None:
    memory = {name: operations(config, stage, 8)[0].memory for name, stage in STAGES.items()}
    assert memory == dict.fromkeys(STAGES, "arena") | dict.fromkeys(
        ("baseline", "fused-tcp"), "private"
    )
