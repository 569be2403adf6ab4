from __future__ import annotations

from itertools import groupby

import pytest

from perfsuite.llama.bursts import between_calls, patterns, weights_apart
from perfsuite.llama.recording import operations
from runtime import STAGES
from runtime.checkpoints import PRESETS, ModelConfig
from runtime.operations import linear_shapes
from runtime.stages import Stage
from runtime.traffic import forward_traffic


@pytest.fixture
def config() -> ModelConfig:
    """The model of the analysis."""
    config = PRESETS["llama-1b"].config
    assert config is not None
    return config


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_pattern_holds_every_operation_and_no_burst_spans_a_call(
    config: ModelConfig, stage: Stage
) -> None:
    (found,) = patterns(config, [stage, stage], 64)
    assert [row for burst in found for row in burst.operations] == list(
        operations(config, stage, 64)
    )
    for burst in found:
        assert len({(row.side, row.call, row.times) for row in burst.operations}) == 1
    calls = 0
    for (side, _), group in groupby(found, lambda burst: (burst.side, burst.operations[0].call)):
        bursts = list(group)
        if side == "device":
            calls += bursts[0].layers if len(bursts) == 1 else 1
    assert calls == forward_traffic(config, stage, 64).rpc_count


def test_weights_of_several_layers_are_needed_where_one_would_stay_in_the_caches(
    config: ModelConfig,
) -> None:
    (pattern,) = patterns(config, [STAGES["fused"]], 64)
    layer = 4 * sum(inner * columns for inner, columns in linear_shapes(config).values())
    assert [weights_apart(pattern, size) for size in (1, layer, layer + 1, 3 * layer)] == [
        1,
        1,
        2,
        3,
    ]
    assert weights_apart(pattern, 1000 * layer) == config.num_layers


def test_what_happens_between_calls_adds_up(config: ModelConfig) -> None:
    stage = STAGES["shared-memory"]
    rows = operations(config, stage, 64)
    between = between_calls(config, stage, 64)
    for per_call, total in (
        (between.device_flops, sum(row.flops * row.times for row in rows)),
        (
            between.device_bytes + between.trusted_bytes,
            sum(row.bytes * row.times for row in rows),
        ),
    ):
        assert 98 * per_call <= total <= 98 * (per_call + 2)
