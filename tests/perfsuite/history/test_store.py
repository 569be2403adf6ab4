from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfsuite.errors import UsageError
from perfsuite.history import store

Document = Callable[..., dict[str, Any]]
WriteRuns = Callable[..., list[str]]


def test_runs_come_in_the_order_of_their_commits(tmp_path: Path, document: Document) -> None:
    for name, number in (("0001_b", 5), ("0002_a", 1)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document(number)))
    days = [run.committed.day for run in store.read(tmp_path).runs]
    assert days == [2, 6]


def test_a_damaged_file_is_named_and_stops_no_other(tmp_path: Path, write_runs: WriteRuns) -> None:
    write_runs(tmp_path, [1.0, 1.0])
    (tmp_path / "0003_x.json").write_text("{")
    (tmp_path / "0004_x.json").write_bytes(b"\xff\xfe")
    (tmp_path / "0005_x.json").write_text("[" * 100_000)
    stored = store.read(tmp_path)
    assert len(stored.runs) == 2
    assert [name in line for name, line in zip("345", stored.unreadable, strict=True)] == [True] * 3


def test_a_damaged_file_that_is_asked_for_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text("[]")
    with pytest.raises(UsageError, match=r"f\.json: expected `object`"):
        store.read(path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--storage .*none: no such folder.*--benchmark-autosave"):
        store.read(tmp_path / "none")


def test_adding_numbers_on_and_adds_nothing_twice(tmp_path: Path, document: Document) -> None:
    source = tmp_path / "source.json"
    folder = tmp_path / "runs"
    names = []
    for number in range(3):
        source.write_text(json.dumps(document(number)))
        added = store.add(folder, source)
        assert added is not None
        names.append(added)
        assert store.add(folder, source) is None
    assert [path.name[:5] for path in names] == ["0001_", "0002_", "0003_"]
    assert {path.parent.name for path in names} == {"Linux-CPython-3.11-64bit"}
    assert len(store.read(folder).runs) == 3
    assert not list(folder.rglob("*.part"))


def test_names_of_somebody_elses_lead_nowhere_else(tmp_path: Path, document: Document) -> None:
    content = document(commit="../../../escaped")
    content["machine_info"]["system"] = ".."
    content["commit_info"]["dirty"] = True
    source = tmp_path / "source.json"
    source.write_text(json.dumps(content))
    added = store.add(tmp_path / "runs", source)
    assert added is not None
    assert added.resolve().is_relative_to(tmp_path / "runs")
    assert added.name.endswith("_uncommited-changes.json")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, document: Document) -> None:
    source = tmp_path / "source.json"
    source.write_text(json.dumps(document()))
    with pytest.raises(UsageError, match=r"--storage .*cannot be written"):
        store.add(Path("/proc/runs"), source)
