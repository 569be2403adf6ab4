"""Rotary position embedding: the cosines and sines that ``transformers``' LLaMA multiplies with."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from runtime.checkpoints.config import ModelConfig
from runtime.errors import InputError


def max_length(config: ModelConfig) -> int:
    """The longest prompt, in tokens, that the model's positions allow.

    A scaling stretches the positions that the model was trained on: those of the configuration, or, where it
    says so (yarn), the original ones, of which the configuration's may be the stretched number already.
    """
    rope = config.rope
    if rope["rope_type"] not in ("dynamic", "linear", "yarn"):
        return config.max_positions
    trained = rope.get("original_max_position_embeddings", config.max_positions)
    return max(config.max_positions, int(trained * rope["factor"]))


class RotaryEmbedding:
    """The tables of one model, for any RoPE kind that its configuration may name."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._max_length = max_length(config)
        # The longest tables made so far, good for any shorter prompt of the same frequencies.
        self._regime = -1
        self._cos = self._sin = torch.empty(0, config.head_dim // 2)

    def tables(
        self, end: int, start: int = 0, length: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, each (end - start, head_dim / 2) float32, for positions start to end - 1.

        Both halves of a head turn by the same angles. ``length`` is that of the text whose frequencies they
        have, where a scaling depends on it; at least ``end``, which is the default. They are shared: not to be
        written to. Raises InputError for a length below 1 or beyond the model's positions.
        """
        length = length or end
        if not 1 <= length <= self._max_length:
            raise InputError(f"prompt of {length} tokens: the model takes 1 to {self._max_length}")
        regime = self._regime_of(length)
        if regime != self._regime or length > len(self._cos):
            self._cos, self._sin = self._compute(length)
            self._regime = regime
        return self._cos[start:end], self._sin[start:end]

    def _regime_of(self, length: int) -> int:
        """A number equal for the lengths that share frequencies."""
        rope = self._config.rope
        if rope["rope_type"] == "dynamic":
            return max(length, self._config.max_positions)
        if rope["rope_type"] == "longrope":
            return int(length > rope["original_max_position_embeddings"])
        return 0

    def _compute(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        frequencies, scaling = _frequencies(self._config, length)
        # Computed to the next power of two, so that a prompt growing token by token costs little.
        positions = torch.arange(min(1 << (length - 1).bit_length(), self._max_length))
        angles = positions[:, None].float() * frequencies
        return angles.cos() * scaling, angles.sin() * scaling


def _frequencies(config: ModelConfig, length: int) -> tuple[torch.Tensor, float]:
    """Inverse frequencies (head_dim / 2,) for a prompt of ``length``, and the tables' factor."""
    rope_type = config.rope["rope_type"]
    if rope_type == "default":
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return 1.0 / (config.rope["rope_theta"] ** exponents), 1.0
    # Late, and only here: the import takes half a second that most models need not spend.
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stand_in = SimpleNamespace(
        rope_parameters=dict(config.rope),
        head_dim=config.head_dim,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.max_positions,
        standardize_rope_params=lambda: None,
    )
    # Beyond the model's positions ``transformers`` has the length as a tensor, and so in float32.
    grown = rope_type == "longrope" or length > config.max_positions
    seq_len = torch.tensor(length) if grown else None
    frequencies, scaling = ROPE_INIT_FUNCTIONS[rope_type](stand_in, None, seq_len=seq_len)
    return frequencies, float(scaling)
