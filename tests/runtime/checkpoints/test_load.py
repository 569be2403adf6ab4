"""Directories in the Hugging Face layout: read as ``transformers`` wrote them, or refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from runtime.checkpoints import Checkpoint, load_checkpoint
from runtime.errors import CheckpointError

FIELDS: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.5,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(tmp_path / "cache"))


def save(directory: Path, *, shard: str = "5GB", **fields: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**FIELDS, **fields}))
    model.save_pretrained(directory, max_shard_size=shard)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    save(directory)
    return directory


@pytest.fixture
def model_directory(saved: Path, tmp_path: Path) -> Path:
    """A plain, untied, single-file model, to be damaged by the test."""
    return shutil.copytree(saved, tmp_path / "model")


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


def edit_config(**fields: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        file = directory / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors")

    return edit


def edit_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        file = directory / "model.safetensors"
        content = file.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        change(header)
        written = json.dumps(header).encode()
        file.write_bytes(len(written).to_bytes(8, "little") + written + content[end:])

    return edit


def cut(name: str, size: int) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        os.truncate(directory / name, size)

    return edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


NORM = "model.norm.weight"
FILE = "model.safetensors"

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


@pytest.fixture
def sharded_directory(tmp_path: Path) -> Path:
    save(tmp_path / "sharded", shard="40KB")
    return tmp_path / "sharded"


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/passwd", "..", "a/b.safetensors", "a\0.safetensors", "x.bin", 3],
    ids=repr,
)
def test_a_shard_outside_the_directory_is_refused(shard: object, sharded_directory: Path) -> None:
    index = sharded_directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][NORM] = shard
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"weight_map\['{NORM}'\]"):
        load_checkpoint(sharded_directory)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": [1]}], ids=repr)
def test_an_index_without_a_map_is_refused(content: object, sharded_directory: Path) -> None:
    (sharded_directory / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="weight_map"):
        load_checkpoint(sharded_directory)


def test_a_missing_shard_is_named(sharded_directory: Path) -> None:
    shard = sorted(sharded_directory.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name} is missing"):
        load_checkpoint(sharded_directory)


def test_a_tensor_in_two_shards_is_refused(sharded_directory: Path) -> None:
    first, second = sorted(sharded_directory.glob("*.safetensors"))[:2]
    save_file({**load_file(first), **load_file(second)}, second)
    with pytest.raises(CheckpointError, match="is in both"):
        load_checkpoint(sharded_directory)


def test_an_unknown_tensor_name(model_directory: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.layers\.2"):
        load_checkpoint(model_directory).tensor("model.layers.2.mlp.up_proj.weight")


def test_the_digest_follows_the_content(model_directory: Path, tmp_path: Path) -> None:
    digest = load_checkpoint(model_directory).digest
    copy = shutil.copytree(model_directory, tmp_path / "copy")
    assert load_checkpoint(copy).digest == digest

    edit_tensors(lambda t: t.update({NORM: t[NORM] + 1}))(copy)
    changed = load_checkpoint(copy).digest
    assert changed != digest
    edit_config(rms_norm_eps=1e-3)(copy)
    assert load_checkpoint(copy).digest not in (digest, changed)


def test_the_digest_does_not_depend_on_shards(sharded_directory: Path, tmp_path: Path) -> None:
    save(tmp_path / "single")
    assert load_checkpoint(sharded_directory).digest == load_checkpoint(tmp_path / "single").digest


@pytest.mark.parametrize("in_place", [False, True], ids=["replaced", "overwritten"])
def test_another_file_of_the_same_size_and_time_is_another_model(
    model_directory: Path, tmp_path: Path, in_place: bool
) -> None:
    """As image layers and ``cp -p`` make them."""
    before = load_checkpoint(model_directory).digest
    weights = model_directory / "model.safetensors"
    then = weights.stat()
    content = weights.read_bytes()
    changed = content[:-1] + bytes([content[-1] ^ 1])  # of the last tensor's last number
    if in_place:
        weights.write_bytes(changed)
    else:
        replacement = tmp_path / "replacement"
        replacement.write_bytes(changed)
        replacement.replace(weights)
    os.utime(weights, ns=(then.st_atime_ns, then.st_mtime_ns))
    now = weights.stat()
    assert (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
    assert load_checkpoint(model_directory).digest != before


def test_the_digest_is_hashed_once(model_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = load_checkpoint(model_directory).digest
    monkeypatch.setattr("runtime.checkpoints.checkpoint.content_digest", None)
    assert load_checkpoint(model_directory).digest == digest


def test_a_cache_that_cannot_be_written_only_costs_time(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", "/dev/null/cache")
    assert len(load_checkpoint(model_directory).digest) == 64


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tinny", "neither a preset .*llama-1b.*did you mean 'tiny'"),
        ("/nowhere/at/all", "neither a preset .* nor an existing path"),
        ("", "neither a preset"),
        ("~nobody-of-this-name/model", "neither a preset"),
        ("missing.gguf", "neither a preset"),
        ("a\0b", "neither a preset"),
        (Path("tiny"), "neither a preset"),
        (Path(__file__), "neither a directory nor a .gguf file"),
    ],
    ids=str,
)
def test_an_unknown_source(source: str | Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(source)


def test_text_without_a_tokenizer_is_bytes(model_directory: Path) -> None:
    tokenizer = load_checkpoint(model_directory).tokenizer()
    assert tokenizer.encode("Aä") == [65, 0xC3 % 96, 0xA4 % 96]  # a vocabulary of 96
    assert tokenizer.decode([72, 105, 400]) == "Hi<400>"
    assert tokenizer.decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"


def test_a_damaged_tokenizer_is_named(model_directory: Path) -> None:
    (model_directory / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        load_checkpoint(model_directory).tokenizer()


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json"]
)
def test_a_tokenizer_of_another_form_is_refused(model_directory: Path, name: str) -> None:
    (model_directory / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_checkpoint(model_directory).tokenizer()


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"]
)
@pytest.mark.parametrize("kind", ["fifo", "folder", "socket"])
def test_what_is_no_file_is_refused_at_once(
    model_directory: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_directory / name
    path.unlink(missing_ok=True)
    if name.endswith("index.json"):
        (model_directory / "model.safetensors").unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        monkeypatch.chdir(model_directory)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(model_directory).tokenizer()


def test_a_fifo_in_the_place_of_a_gguf_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match=r"model\.gguf is neither"):
        load_checkpoint(tmp_path / "model.gguf")


def test_a_configuration_of_gigabytes_is_not_read(model_directory: Path) -> None:
    with (model_directory / "config.json").open("r+b") as file:
        file.truncate(10 << 30)  # a hole
    with pytest.raises(CheckpointError, match=r"config\.json has 10,737,418,240 bytes"):
        load_checkpoint(model_directory)
