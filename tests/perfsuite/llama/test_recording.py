"""The operations that are recorded from the runtime."""

from __future__ import annotations

import dataclasses

import pytest

from perfsuite.llama.recording import record
from perfsuite.llama.workload import operations
from runtime import STAGES
from runtime.checkpoints import PRESETS, ModelConfig
from runtime.stages import Stage
from tests.runtime.models import small_config

CONFIGS = {
    **{name: preset.config for name, preset in PRESETS.items() if preset.config},
    "biased": small_config(attention_bias=True, mlp_bias=True),
    "tied": small_config(tie_word_embeddings=True),
}


@pytest.mark.parametrize("tokens", [2, 7, 300])
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_the_runtime_computes_is_what_is_written_down(
    config: ModelConfig, stage: Stage, tokens: int
) -> None:
    recorded = record(config, stage, tokens)
    found = [
        (*dataclasses.astuple(row), times)
        for rows, times in (
            (recorded.before, 1),
            (recorded.layer, config.num_layers),
            (recorded.after, 1),
        )
        for row in rows
    ]
    assert found == [
        (row.side, row.call, row.kind, row.shape, row.times)
        for row in operations(config, stage, tokens)
    ]
