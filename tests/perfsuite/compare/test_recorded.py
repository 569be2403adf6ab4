"""The commit whose code was recorded, by what a file that anybody may edit says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from perfsuite.compare.recorded import revision_of
from perfsuite.errors import UsageError
from perfsuite.provenance import CHANGED

Git = Callable[..., str]
MakeRepository = Callable[..., Path]

DATE = "2026-01-02T03:04Z"
FILE = "baselines.json"
RECORDING = json.dumps({"entries": [{"recorded": {"date": DATE}}]}) + "\n"


@pytest.fixture
def history(repository: MakeRepository) -> Path:
    """Four commits: the code, what made it slower and recorded that, a comment, and something else."""
    return repository(
        {"work.py": "fast"}, {"work.py": "slow", FILE: RECORDING}, {"work.py": "slow\n# why"}, {"a": "b"}
    )  # fmt: skip


def commits(root: Path, git: Git) -> list[str]:
    return git(root, "log", "--reverse", "--format=%H").split()


def found(root: Path, recorded: Mapping[str, str], file: str = FILE) -> str:
    return revision_of(recorded, root, root / file).commit


@pytest.mark.parametrize("length", [7, 12, 40])
def test_a_recording_s_own_commit_is_it(history: Path, git: Git, length: int) -> None:
    first = commits(history, git)[0]
    assert found(history, {"commit": first[:length], "date": DATE}) == first


@pytest.mark.parametrize("squashed", [False, True], ids=["files differed", "squashed"])
def test_else_it_is_the_commit_that_brought_the_recording(
    history: Path, git: Git, squashed: bool
) -> None:
    """The first commit is faster: held against it, accepted code would be red."""
    first, accepted, *_ = commits(history, git)
    recorded = {"commit": "0123456789ab" if squashed else first, "date": DATE}
    if not squashed:
        recorded[CHANGED] = "files differed from the commit"
    assert found(history, recorded) == accepted


@pytest.mark.parametrize(
    "name",
    ["", "HEAD", "main", "main...", "--help", "\0", "a" * 200_000, "0" * 39 + "\n", "abcdef", "A" * 8],
    ids=lambda name: repr(name[:9]),
)  # fmt: skip
def test_what_is_no_commit_s_hash_is_not_taken_for_one(history: Path, name: str) -> None:
    """The file is anybody's to edit: with HEAD the slow code would be held against itself."""
    with pytest.raises(UsageError, match=r"the commit that was recorded \(none\) is not here"):
        found(history, {"commit": name, "date": "2020-01-01T00:00Z"})


@pytest.mark.parametrize("date", ["", ".*", DATE[:-1], "--all", f"{DATE}\n"], ids=repr)
def test_what_is_no_date_is_not_looked_for(history: Path, date: str) -> None:
    with pytest.raises(UsageError, match=r"\(0123456789ab\) is not here"):
        found(history, {"commit": "0123456789ab", "date": date})


def test_a_commit_that_only_moved_the_file_is_not_what_was_recorded(
    history: Path, git: Git
) -> None:
    git(history, "mv", FILE, "moved.json")
    git(history, "commit", "--quiet", "-m", "moved")
    with pytest.raises(UsageError, match="is not here"):
        found(history, {"commit": "0123456789ab", "date": DATE}, "moved.json")


def test_a_shallow_clone_holds_nothing_against_itself(
    history: Path, git: Git, tmp_path: Path
) -> None:
    """Its recordings were brought by the one commit that it has, as far as it knows."""
    git(history, "clone", "--quiet", "--depth=1", f"file://{history}", str(tmp_path / "shallow"))
    with pytest.raises(UsageError, match="fetch the whole history"):
        found(tmp_path / "shallow", {"commit": "0123456789ab", "date": DATE})


def test_a_file_of_no_repository_was_brought_by_no_commit(history: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(RECORDING)
    with pytest.raises(UsageError, match="is not here"):
        revision_of({"commit": "0123456789ab", "date": DATE}, history, tmp_path / FILE)
    with pytest.raises(UsageError, match="run it in the git work tree"):
        revision_of({"commit": "0123456789ab", "date": DATE}, tmp_path, tmp_path / FILE)
