from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime import load_checkpoint
from runtime.checkpoints.end_tokens import GENERATION_FILE
from runtime.errors import CheckpointError
from tests.runtime.models import small_config, write_model


def end_tokens(folder: Path, config: Any, generation: Any = ...) -> tuple[int, ...]:
    """Those of a checkpoint whose two files hold these ``eos_token_id``; ``...`` leaves the second file out."""
    checkpoint = write_model(folder / "model", small_config())
    file = checkpoint.directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": config}))
    if generation is not ...:
        (checkpoint.directory / GENERATION_FILE).write_text(json.dumps(generation))
    return load_checkpoint(checkpoint.directory, cache_dir=folder / "cache").eos_token_ids


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (2, ..., (2,)),
        ([5, 3, 5], ..., (5, 3)),
        (None, ..., ()),
        (2, {"eos_token_id": [7, 8]}, (7, 8)),
        (2, {"eos_token_id": 0}, (0,)),
        (2, {"temperature": 0.6}, (2,)),
    ],
)
def test_end_tokens_are_those_of_either_file(
    tmp_path: Path, config: Any, generation: Any, expected: tuple[int, ...]
) -> None:
    assert end_tokens(tmp_path, config, generation) == expected


@pytest.mark.parametrize("wrong", ["2", 1.5, -1, True, [2, "x"], {"id": 2}, list(range(1001))])
def test_what_is_no_token_is_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id"):
        end_tokens(tmp_path, 2, {"eos_token_id": wrong})


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "model", small_config())
    (checkpoint.directory / GENERATION_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=GENERATION_FILE):
        checkpoint.eos_token_ids  # noqa: B018


def test_those_of_a_converted_file_are_kept() -> None:
    checkpoint = load_checkpoint("smollm2-135m")
    assert checkpoint.eos_token_ids == tuple(checkpoint.tokenizer().encode("<|im_end|>"))
