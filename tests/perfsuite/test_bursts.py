from __future__ import annotations

import itertools

import pytest

from perfsuite.bursts import between_calls, bursts
from perfsuite.workload import operations
from runtime import STAGES
from runtime.checkpoints import PRESETS, ModelConfig


@pytest.fixture
def config() -> ModelConfig:
    """The model of the analysis."""
    config = PRESETS["llama-1b"].config
    assert config is not None
    return config


def test_bursts_alternate_and_hold_every_operation(config: ModelConfig) -> None:
    stage = STAGES["shared-memory"]
    found = bursts(config, [stage], [64])
    assert all(before.side != after.side for before, after in itertools.pairwise(found))
    assert [row for burst in found for row in burst.operations] == list(
        operations(config, stage, 64)
    )
    assert bursts(config, [stage, stage], [64]) == found


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
