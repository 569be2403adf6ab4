"""The digest: of the content alone, hashed once, and never that of another file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from runtime.checkpoints import load_checkpoint
from runtime.checkpoints.cache import Cache
from runtime.checkpoints.digest import canonical_json, remembered
from runtime.checkpoints.files import SteadyFile
from tests.runtime.checkpoints.saved import NORM, edit_config, edit_tensors, save

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_what_was_computed_is_remembered_by_what_it_is_and_of_which_files(tmp_path: Path) -> None:
    cache, asked = Cache(tmp_path / "own"), list[str]()
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text(path.name)
    files = [SteadyFile(path) for path in paths]

    def compute() -> str:
        asked.append("asked")
        return f"digest {len(asked)}"

    assert remembered(cache, "one", files, compute) == "digest 1"
    assert remembered(cache, "one", files, compute) == "digest 1"
    assert remembered(cache, "another", files, compute) == "digest 2"
    assert remembered(cache, "one", files[:1], compute) == "digest 3"
    paths[0].write_text("changed")
    files = [SteadyFile(path) for path in paths]
    assert remembered(cache, "one", files, compute) == "digest 4"


def test_a_stamp_samples_files_of_any_size(tmp_path: Path) -> None:
    file = tmp_path / "file"
    seen = set()
    for size in (0, 1, 63, 100_000):
        file.write_bytes(bytes(size))
        path, *_, sampled = SteadyFile(file).stamp()
        assert path == str(file)
        seen.add(sampled)
    assert len(seen) == 4


def test_digests_are_those_of_the_standard(tmp_path: Path) -> None:
    """FIPS 180-4's example; and one spelling of a value, whatever the order of its keys."""
    (tmp_path / "file").write_bytes(b"abc")
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert SteadyFile(tmp_path / "file").sha256() == wanted
    assert canonical_json({"b": [1, 2.5], "a": None}) == b'{"a":null,"b":[1,2.5]}'
