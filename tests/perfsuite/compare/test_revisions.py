from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perfsuite.compare.revisions import Revision, find_root, head, resolve, worktree
from perfsuite.errors import UsageError

Git = Callable[..., str]


@pytest.fixture
def repository(tmp_path: Path, git: Git) -> Path:
    """Two commits: `file` holds "old" in the first and "new" in the second."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    for text in ("old", "new"):
        (root / "file").write_text(text)
        git(root, "add", "file")
        git(root, "commit", "--quiet", "-m", text)
    return root


def test_the_root_is_found_from_below(repository: Path) -> None:
    (repository / "deep" / "er").mkdir(parents=True)
    assert find_root(repository / "deep" / "er") == repository.resolve()


def test_a_folder_outside_of_every_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run compare in the git work tree"):
        find_root(tmp_path)


@pytest.mark.parametrize("name", ["no-such-branch", "HEAD~7", "", "--all", "HEAD:file"])
def test_what_is_no_commit_is_refused_by_name(repository: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no such revision"):
        resolve(repository, name)


def test_an_empty_repository_has_no_head(tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "--quiet")
    with pytest.raises(UsageError, match="no such revision"):
        head(tmp_path)


def test_head_tells_changes_of_tracked_files(repository: Path) -> None:
    (repository / "untracked").write_text("")
    assert head(repository) == (resolve(repository, "HEAD"), False)
    (repository / "file").write_text("newer")
    assert head(repository)[1]


def test_a_revision_shows_name_and_commit() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert str(Revision("main", commit)) == "main (0123456789)"
    assert str(Revision("01234567", commit)) == "0123456789"


def test_the_work_tree_holds_the_revision_and_goes_away(repository: Path, git: Git) -> None:
    marker = repository.parent / "hook-ran"
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    with worktree(repository, resolve(repository, "HEAD~1")) as folder:
        assert (folder / "file").read_text() == "old"
        assert str(folder) in git(repository, "worktree", "list")
        (folder / "file").write_text("dirty")
    assert not folder.exists()
    assert git(repository, "worktree", "list").count("\n") == 0
    assert (repository / "file").read_text() == "new"
    assert not marker.exists()


def test_the_work_tree_goes_away_after_an_exception(repository: Path, git: Git) -> None:
    with pytest.raises(KeyError), worktree(repository, resolve(repository, "HEAD")) as folder:
        raise KeyError
    assert not folder.exists()
    assert git(repository, "worktree", "list").count("\n") == 0


def test_what_git_cannot_check_out_leaves_nothing(repository: Path, git: Git) -> None:
    lost = Revision("lost", "0" * 40)
    with pytest.raises(UsageError, match="cannot be checked out"), worktree(repository, lost):
        pass
    assert git(repository, "worktree", "list").count("\n") == 0
