"""The tables against ``transformers``' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from runtime.checkpoints import ModelConfig
from runtime.errors import InputError
from runtime.rope import RotaryEmbedding, max_length

MAX_POSITIONS = 64
HEAD_DIM = 16

KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn-tuned": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.1,
        "truncate": False,
    },
    "yarn-scaled": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 1.3,
    },
    "longrope": {
        "rope_type": "longrope",
        "original_max_position_embeddings": 16,
        "short_factor": [1.0 + 0.05 * i for i in range(HEAD_DIM // 2)],
        "long_factor": [2.0 + 0.5 * i for i in range(HEAD_DIM // 2)],
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "proportional": {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5},
}


def config_of(rope: dict[str, Any]) -> ModelConfig:
    return ModelConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": 32,
            "hidden_size": 4 * HEAD_DIM,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": MAX_POSITIONS,
            "rope_parameters": {"rope_theta": 10_000.0, **rope},
        }
    )


def reference(config: ModelConfig, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    rope = LlamaRotaryEmbedding(LlamaConfig(**config.to_hf()))
    cos, sin = (table[0] for table in rope(torch.empty(1), torch.arange(length)[None]))
    half = HEAD_DIM // 2
    assert torch.equal(cos[:, :half], cos[:, half:])
    assert torch.equal(sin[:, :half], sin[:, half:])
    return cos[:, :half], sin[:, :half]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 7, 16, 17, 63, 64])
def test_tables_are_those_of_transformers(kind: str, length: int) -> None:
    config = config_of(KINDS[kind])
    cos, sin = RotaryEmbedding(config).tables(length)
    expected_cos, expected_sin = reference(config, length)
    assert cos.shape == sin.shape == (length, HEAD_DIM // 2)
    torch.testing.assert_close(cos, expected_cos, atol=1e-6, rtol=0)
    torch.testing.assert_close(sin, expected_sin, atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [65, 100, 256])
def test_dynamic_beyond_the_positions(length: int) -> None:
    config = config_of(KINDS["dynamic"])
    cos, sin = RotaryEmbedding(config).tables(length)
    expected_cos, expected_sin = reference(config, length)
    torch.testing.assert_close(cos, expected_cos, atol=1e-6, rtol=0)
    torch.testing.assert_close(sin, expected_sin, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "longrope"])
def test_one_object_serves_lengths_in_any_order(kind: str) -> None:
    config = config_of(KINDS[kind])
    rope = RotaryEmbedding(config)
    for length in (9, 64, 3, 17, 16, 64, max_length(config), 5):
        for table, expected in zip(rope.tables(length), reference(config, length), strict=True):
            torch.testing.assert_close(table, expected, atol=1e-6, rtol=0)


def test_longest_prompt() -> None:
    assert max_length(config_of(KINDS["default"])) == MAX_POSITIONS
    # Scaled, a model was made for more than it was trained on first.
    assert max_length(config_of(KINDS["linear"])) == 4 * MAX_POSITIONS
    assert max_length(config_of({"rope_type": "linear", "factor": 0.5})) == MAX_POSITIONS
    assert max_length(config_of(KINDS["dynamic"])) == 4 * MAX_POSITIONS
    # Yarn's configurations hold the stretched number, or the trained one.
    assert max_length(config_of(KINDS["yarn"])) == MAX_POSITIONS
    trained = {**KINDS["yarn"], "original_max_position_embeddings": MAX_POSITIONS}
    assert max_length(config_of(trained)) == 4 * MAX_POSITIONS


@pytest.mark.parametrize("length", [-1, 0, MAX_POSITIONS + 1])
def test_a_length_beyond_the_positions_is_refused(length: int) -> None:
    with pytest.raises(InputError, match="the model takes 1 to 64"):
        RotaryEmbedding(config_of(KINDS["default"])).tables(length)
