from __future__ import annotations

import json
from pathlib import Path

import pytest

from perfsuite.__main__ import main
from perfsuite.errors import UsageError
from perfsuite.llama.accelerators import load_accelerators
from perfsuite.llama.diagnosis.footprint import (
    check_accelerator,
    check_memory,
    known_config,
    memory_needed,
    weight_bytes,
)
from runtime import STAGES, load_checkpoint
from runtime.checkpoints import PRESETS

HUGE = {
    "model_type": "llama",
    "vocab_size": 256_000,
    "hidden_size": 65_536,
    "intermediate_size": 262_144,
    "num_hidden_layers": 512,
    "num_attention_heads": 512,
}


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(HUGE))
    return tmp_path


def test_a_model_too_large_is_refused_before_it_is_opened(
    huge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to open: the folder holds a configuration and no weights."""
    assert main(["diagnose", "--model", str(huge), "--tokens", "64"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"perfsuite: --model {huge}: needs about ")
    assert "GB are available" in error
    assert error.count("\n") == 1


def test_a_model_too_large_for_the_device_is_refused(huge: Path) -> None:
    config = known_config(str(huge))
    assert config is not None
    with pytest.raises(UsageError, match="device=h100: the weights need"):
        check_accelerator(load_accelerators()["h100"], config, [STAGES["bf16"]])


def test_what_fits_passes() -> None:
    config = known_config("tiny")
    assert config is not None
    check_accelerator(load_accelerators()["h100"], config, list(STAGES.values()))
    check_memory("tiny", memory_needed(config, list(STAGES.values()), 64, 3), 64 * 10**9)


def test_a_model_that_only_loading_can_describe_has_no_configuration_yet(tmp_path: Path) -> None:
    assert known_config(str(tmp_path)) is None
    assert known_config(str(tmp_path / "model.gguf")) is None


def test_weights_are_counted_as_they_are() -> None:
    checkpoint = load_checkpoint("tiny")
    stored = sum(
        checkpoint.tensor(name).numel()
        for name, shape in checkpoint.expected_shapes().items()
        if len(shape) == 2
    )
    assert weight_bytes(checkpoint.config, 4) == 4 * stored


def test_more_stages_and_longer_prompts_need_more() -> None:
    config = PRESETS["llama-1b"].config
    assert config is not None
    stages = list(STAGES.values())
    needs = [
        memory_needed(config, stages[:1], 64, 3),
        memory_needed(config, stages[:1], 1024, 3),
        memory_needed(config, stages, 1024, 3),
    ]
    assert needs == sorted(needs)
    assert needs[2] - needs[1] > 3 * weight_bytes(config, 4)
