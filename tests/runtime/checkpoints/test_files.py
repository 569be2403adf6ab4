"""Files that change while they are in use: told by name, and nobody computes with halves of two models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from runtime import SplitLlama, load_checkpoint
from runtime.checkpoints.files import SteadyFile
from runtime.checkpoints.random_weights import write_random_checkpoint
from runtime.checkpoints.weights import SINGLE_FILE
from runtime.errors import CheckpointError, WorkerDied
from runtime.stages import STAGES
from tests.runtime.models import reference_logits, reference_model, small_config, write_model

PROMPT = list(range(20))
CHANGED = "was replaced or written to since it was opened; load the checkpoint again"


def overwrite(file: Path) -> None:
    """As ``rsync --inplace`` writes another model of the same size."""
    with file.open("r+b") as opened:
        opened.seek(-(file.stat().st_size // 2), os.SEEK_END)
        opened.write(bytes(file.stat().st_size // 2))


def overwrite_with_its_time(file: Path) -> None:
    then = file.stat()
    overwrite(file)
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))


def replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    other.replace(file)


def truncate(file: Path) -> None:
    os.truncate(file, 64)


CHANGES: dict[str, Callable[[Path], None]] = {
    "overwritten": overwrite,
    "overwritten, with its time": overwrite_with_its_time,
    "replaced": replace,
    "truncated": truncate,
    "removed": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_is_not_read_on(change: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    file = SteadyFile(path)
    assert file.read(3, 2) == b"\x03\x04"
    CHANGES[change](path)
    for use in (lambda: file.read(3, 2), file.check, file.stamp, file.sha256):
        with pytest.raises(CheckpointError, match=CHANGED):
            use()


def test_a_file_that_changes_during_a_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8 << 20))
    file = SteadyFile(path)
    read = os.preadv
    for change in (overwrite, truncate):

        def interrupted(*arguments: object, change: Callable[[Path], None] = change) -> int:
            count = read(*arguments)  # type: ignore[arg-type]
            change(path)
            return count

        monkeypatch.setattr(os, "preadv", interrupted)
        with pytest.raises(CheckpointError, match=CHANGED):
            file.read(0, file.size)
        monkeypatch.undo()
        path.write_bytes(bytes(8 << 20))
        file = SteadyFile(path)


def test_a_file_in_use_holds_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    before = psutil.Process().num_fds()
    file = SteadyFile(path)
    file.read(0, 100)
    path.unlink()
    with pytest.raises(CheckpointError):
        file.check()
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("name", [SINGLE_FILE, "config.json"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_changed_since_it_was_opened_is_not_launched(
    name: str, change: str, tmp_path: Path
) -> None:
    checkpoint = write_model(tmp_path / "model", small_config())
    checkpoint.digest  # noqa: B018 - remembered, also by this object
    CHANGES[change](tmp_path / "model" / name)
    with pytest.raises(CheckpointError, match=rf"{name} {CHANGED}"):
        SplitLlama.launch(checkpoint, "fused")
    del checkpoint.digest
    with pytest.raises(CheckpointError, match=rf"{name} {CHANGED}"):
        checkpoint.digest  # noqa: B018


def test_a_digest_is_never_remembered_for_what_was_not_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_model(tmp_path / "model", small_config())
    right = checkpoint.digest
    again = load_checkpoint(tmp_path / "model", cache_dir=tmp_path / "another")
    other = write_model(tmp_path / "elsewhere", small_config(), seed=1)
    (other.directory / SINGLE_FILE).replace(tmp_path / "model" / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=CHANGED):
        again.digest  # noqa: B018
    later = load_checkpoint(tmp_path / "model", cache_dir=tmp_path / "another")
    assert later.digest != right


@pytest.mark.parametrize("stage", STAGES)
def test_an_open_llama_goes_on_with_the_weights_that_it_has(stage: str, tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "model", small_config())
    with SplitLlama.launch(checkpoint, stage, threads=1) as llama:
        before = llama.forward(PROMPT)
        for change in (overwrite, truncate):
            change(tmp_path / "model" / SINGLE_FILE)
            assert str(tmp_path) not in Path(f"/proc/{llama.worker_info['pid']}/maps").read_text()
            assert torch.equal(llama.forward(PROMPT), before)


@pytest.mark.parametrize("stage", ["baseline", "fused"])
def test_weights_that_change_before_the_worker_reads_them_are_told_by_name(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_model(tmp_path / "model", small_config())
    file = tmp_path / "model" / SINGLE_FILE
    checkpoint.digest  # noqa: B018 - asked for, so that nothing here is read again
    monkeypatch.setattr(checkpoint, "check_unchanged", lambda: truncate(file))
    with pytest.raises(WorkerDied, match=rf"{SINGLE_FILE} is damaged"):
        SplitLlama.launch(checkpoint, stage)


def test_what_was_read_is_what_is_there(tmp_path: Path) -> None:
    """Against another reader of the same files."""
    config = small_config(tie_word_embeddings=True)
    directory = tmp_path / "model"
    directory.mkdir()
    write_random_checkpoint(directory, config, 3)
    checkpoint = load_checkpoint(directory, cache_dir=tmp_path / "cache")
    state = reference_model(checkpoint).state_dict()
    for name in checkpoint.expected_shapes():
        assert torch.equal(checkpoint.tensor(name), state[name])
    assert reference_logits(reference_model(checkpoint), [PROMPT]).isfinite().all()
