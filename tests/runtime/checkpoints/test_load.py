"""From a name or a path to an open checkpoint, and what is neither."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.checkpoints import load_checkpoint
from runtime.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_a_fifo_in_the_place_of_a_gguf_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match=r"model\.gguf is neither"):
        load_checkpoint(tmp_path / "model.gguf")


def test_another_cache_is_found_by_path(tmp_path: Path) -> None:
    first, second = (load_checkpoint("tiny", cache_dir=tmp_path / name) for name in "ab")
    assert Path(first.source) == first.directory
    assert load_checkpoint(first.source, cache_dir=tmp_path / "c").digest == second.digest


def test_a_folder_of_a_presets_name_is_given_as_a_path(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_directory.rename(model_directory.with_name("tiny"))
    monkeypatch.chdir(model_directory.parent)
    assert load_checkpoint("tiny").config.vocab_size == 512
    assert load_checkpoint("./tiny").config.vocab_size == 96
    assert load_checkpoint(Path("tiny")).config.vocab_size == 96
    assert load_checkpoint(Path("tiny")).source == str(model_directory.with_name("tiny"))
