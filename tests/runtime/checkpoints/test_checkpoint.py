"""Directories in the Hugging Face layout: read as ``transformers`` wrote them, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from runtime.checkpoints import Checkpoint, load_checkpoint
from runtime.errors import CheckpointError
from tests.runtime.checkpoints.saved import (
    FIELDS,
    FILE,
    NORM,
    cut,
    edit_config,
    edit_header,
    edit_tensors,
    remove,
    save,
)

pytestmark = pytest.mark.usefixtures("own_cache")


def assert_same_weights(checkpoint: Checkpoint, model: LlamaForCausalLM) -> None:
    state = model.state_dict()
    for name, shape in checkpoint.expected_shapes().items():
        assert tuple(state[name].shape) == shape
        assert torch.equal(checkpoint.tensor(name), state[name])
    assert torch.equal(checkpoint.tensor("lm_head.weight"), state["lm_head.weight"])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 4, "head_dim": 8},
        {"shard": "40KB"},
        {"shard": "40KB", "tie_word_embeddings": True, "attention_bias": True},
    ],
    ids=str,
)
def test_reads_what_transformers_saves(fields: dict[str, Any], tmp_path: Path) -> None:
    model = save(tmp_path / "model", **fields)
    checkpoint = load_checkpoint(tmp_path / "model")
    assert_same_weights(checkpoint, model)
    assert (len(list((tmp_path / "model").glob("*.safetensors"))) > 1) is ("shard" in fields)
    assert checkpoint.source == str(tmp_path / "model")
    assert checkpoint.directory == tmp_path / "model"
    assert load_checkpoint(checkpoint.source).digest == checkpoint.digest
    again = LlamaConfig(**checkpoint.config.to_hf())
    assert again.rope_parameters == model.config.rope_parameters
    assert again.head_dim == model.config.head_dim


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_keep_their_dtype_and_are_the_callers_own(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**FIELDS)).to(dtype)
    model.save_pretrained(tmp_path / "model")
    checkpoint = load_checkpoint(tmp_path / "model")
    first, second = (checkpoint.tensor("lm_head.weight") for _ in range(2))
    assert first.dtype == dtype
    first.zero_()
    assert torch.equal(second, model.state_dict()["lm_head.weight"])


def test_a_tied_head_stored_twice(tmp_path: Path) -> None:
    save(tmp_path / "model", tie_word_embeddings=True)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, file)
    load_checkpoint(tmp_path / "model")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        load_checkpoint(tmp_path / "model")


def test_old_rotary_buffers_are_passed_over(model_directory: Path) -> None:
    file = model_directory / "model.safetensors"
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file({**load_file(file), **extra}, file)
    assert load_checkpoint(model_directory).config.num_layers == 2


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (remove("config.json"), "has no config.json"),
    "config cut": (cut("config.json", 20), r"config\.json is not JSON"),
    "config no object": (lambda d: (d / "config.json").write_text("[]"), "JSON object"),
    "config deep": (lambda d: (d / "config.json").write_text("[" * 10**5), "not JSON"),
    "config bytes": (lambda d: (d / "config.json").write_bytes(b"\xff"), "not JSON"),
    "field": (edit_config(hidden_act="gelu"), "'hidden_act'"),
    "no weights": (remove(FILE), r"neither model\.safetensors nor"),
    "weights cut": (cut(FILE, 10_000), rf"{FILE} is damaged"),
    "header cut": (cut(FILE, 50), rf"{FILE} is damaged"),
    "empty": (cut(FILE, 0), rf"{FILE} is damaged"),
    "not safetensors": (lambda d: (d / FILE).write_bytes(b"\0" * 100), rf"{FILE} is damaged"),
    "missing tensor": (edit_tensors(lambda t: t.pop(NORM)), f"lacks tensor '{NORM}'"),
    "many missing": (edit_tensors(lambda t: t.clear()), "lacks tensors '.*' and 18 more"),
    "extra tensor": (edit_tensors(lambda t: t.update(odd=torch.ones(1))), "holds tensor 'odd'"),
    "bias unannounced": (
        edit_tensors(lambda t: t.update({"model.layers.0.mlp.up_proj.bias": torch.ones(80)})),
        "'model.layers.0.mlp.up_proj.bias'",
    ),
    "other shape": (
        edit_tensors(lambda t: t.update({NORM: torch.ones(63)})),
        rf"'{NORM}' .* shape \(63,\); config.json implies \(64,\)",
    ),
    "other dtype": (
        edit_tensors(lambda t: t.update({NORM: torch.ones(64, dtype=torch.float64)})),
        rf"'{NORM}' .* dtype F64; supported are F32, BF16, F16",
    ),
    "header huge": (
        lambda d: (d / FILE).write_bytes(b"\xff" * 7 + b"\0" + b"{}"),
        rf"{FILE} is damaged.*header",
    ),
    "header no UTF-8": (
        lambda d: (d / FILE).write_bytes((4).to_bytes(8, "little") + b'{"\xff'),
        rf"{FILE} is damaged",
    ),
    "header deep": (
        lambda d: (d / FILE).write_bytes((10**5).to_bytes(8, "little") + b"[" * 10**5),
        rf"{FILE} is damaged",
    ),
    "hole": (
        edit_header(lambda h: h[NORM].update(data_offsets=[h[NORM]["data_offsets"][0] + 4] * 2)),
        rf"{FILE} is damaged.*overlap, or leave holes",
    ),
    "overlap": (
        edit_header(lambda h: h[NORM].update(data_offsets=[0, 256])),
        rf"{FILE} is damaged.*overlap, or leave holes",
    ),
    "backwards": (
        edit_header(lambda h: h[NORM].update(data_offsets=h[NORM]["data_offsets"][::-1])),
        rf"{FILE} is damaged",
    ),
    "bytes of another dtype": (
        edit_header(lambda h: h[NORM].update(dtype="F16")),
        rf"{FILE} is damaged: '{NORM}' has 256 bytes",
    ),
    "offsets without bounds": (
        edit_header(lambda h: h[NORM].update(data_offsets=[2**70, 2**71])),
        rf"{FILE} is damaged",
    ),
    "bytes behind": (
        lambda d: (d / FILE).write_bytes((d / FILE).read_bytes() + b"\0"),
        rf"{FILE} is damaged.* are declared",
    ),
    "more layers": (edit_config(num_hidden_layers=3), "lacks tensors 'model.layers.2"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, model_directory: Path) -> None:
    damage, message = DAMAGE[name]
    damage(model_directory)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model_directory)


def test_an_unknown_tensor_name(model_directory: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.layers\.2"):
        load_checkpoint(model_directory).tensor("model.layers.2.mlp.up_proj.weight")


@pytest.mark.parametrize(
    "name", ["config.json", FILE, "model.safetensors.index.json", "tokenizer.json"]
)
def test_a_link_to_what_was_cleaned_away_is_told(name: str, model_directory: Path) -> None:
    """A cache of downloads has links to the files themselves."""
    (model_directory / name).unlink(missing_ok=True)
    if name.endswith("index.json"):
        (model_directory / FILE).unlink()
    (model_directory / name).symlink_to("../../blobs/0123")
    with pytest.raises(
        CheckpointError, match=rf"{name} is a link to \.\./\.\./blobs/0123, which is missing"
    ):
        load_checkpoint(model_directory).tokenizer()
