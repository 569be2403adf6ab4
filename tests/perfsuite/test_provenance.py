from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from perfsuite.provenance import CHANGED, provenance


def test_it_names_the_commit_the_minute_and_versions(tmp_path: Path) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    found = provenance(tmp_path, {"python": "3.11"})
    assert re.fullmatch(r"[0-9a-f]{12}", found["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ", found["date"])
    assert found["python"] == "3.11"


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert provenance(tmp_path)["commit"] == ""


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["commit"] == ""


def test_files_that_differ_from_the_commit_are_said(tmp_path: Path) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    mine, aside, below = tmp_path / "mine", tmp_path / "aside", tmp_path / "below"
    below.mkdir()
    for file in (mine, aside):
        file.write_text("old")
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "untracked").write_text("new")
    aside.write_text("new")
    assert CHANGED not in provenance(below, but=aside)
    assert CHANGED in provenance(below)
    mine.write_text("new")
    assert CHANGED in provenance(below, but=aside)
