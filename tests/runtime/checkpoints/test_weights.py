"""The files of the weights: shards, headers, what is no file, and files that are written."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.checkpoints import load_checkpoint
from runtime.checkpoints.weights import INDEX_FILE, SINGLE_FILE, WeightFiles, write_weights
from runtime.errors import CheckpointError
from tests.runtime.checkpoints.saved import NORM

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_a_configuration_of_gigabytes_is_not_read(model_directory: Path) -> None:
    with (model_directory / "config.json").open("r+b") as file:
        file.truncate(10 << 30)  # a hole
    with pytest.raises(CheckpointError, match=r"config\.json has 10,737,418,240 bytes"):
        load_checkpoint(model_directory)


def test_weights_go_to_as_many_files_as_are_needed(tmp_path: Path) -> None:
    tensors = {name: torch.full((100,), float(i)) for i, name in enumerate("abcde")}
    write_weights(tmp_path, tensors.items(), shard_bytes=900)
    weights = WeightFiles(tmp_path)
    assert len(weights.files) == 3
    assert all(torch.equal(weights.tensor(name), tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("shard_bytes", [400, 10_000])
def test_one_file_needs_no_index(shard_bytes: int, tmp_path: Path) -> None:
    """Also where one tensor alone is larger than a file should be."""
    tensor = torch.arange(200.0).view(20, 10).t()  # not contiguous
    write_weights(tmp_path, [("a", tensor)], shard_bytes=shard_bytes)
    assert [file.name for file in tmp_path.glob("*.*")] == [SINGLE_FILE]
    assert torch.equal(WeightFiles(tmp_path).tensor("a"), tensor)


def test_an_index_says_how_much_lies_where(tmp_path: Path) -> None:
    tensors = {name: torch.full((100,), float(i)) for i, name in enumerate("abc")}
    write_weights(tmp_path, tensors.items(), shard_bytes=400)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"] == {"total_size": 1200}
    for name, file in index["weight_map"].items():
        assert list(load_file(tmp_path / file)) == [name]


def test_a_single_file_wins_over_shards(sharded_directory: Path) -> None:
    """As in ``transformers``."""
    save_file({"alone": torch.ones(3)}, sharded_directory / SINGLE_FILE)
    assert list(WeightFiles(sharded_directory)) == ["alone"]
