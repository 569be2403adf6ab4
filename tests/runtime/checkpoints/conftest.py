from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.runtime.checkpoints.saved import save


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test has a cache folder of its own."""
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    save(directory)
    return directory


@pytest.fixture
def model_directory(saved: Path, tmp_path: Path) -> Path:
    """A plain, untied, single-file model, to be damaged by the test."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture(scope="session")
def saved_in_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    save(directory, shard="40KB")
    return directory


@pytest.fixture
def sharded_directory(saved_in_shards: Path, tmp_path: Path) -> Path:
    """The same in several files, to be damaged by the test."""
    return shutil.copytree(saved_in_shards, tmp_path / "sharded")
