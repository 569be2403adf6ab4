from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perfsuite.compare.revisions import (
    Revision,
    describe,
    find_root,
    first_parent_range,
    head,
    ignored,
    merge_base,
    resolve,
    snapshot,
    tracked,
    untracked,
    worktree,
)
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
    with pytest.raises(UsageError, match="run it in the git work tree"):
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


def test_a_name_with_dots_at_its_end_is_where_head_left_it(repository: Path, git: Git) -> None:
    forked = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "-b", "branch")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "mine")
    git(repository, "checkout", "--quiet", "main")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    git(repository, "checkout", "--quiet", "branch")
    assert merge_base(repository, "main", "branch") == forked
    assert resolve(repository, "main...") == Revision("main...", forked)
    assert str(resolve(repository, "main...")) == f"main... ({forked[:10]})"


def test_what_has_no_common_commit_is_refused(repository: Path, git: Git) -> None:
    git(repository, "checkout", "--quiet", "--orphan", "other")
    git(repository, "commit", "--quiet", "-m", "other")
    with pytest.raises(UsageError, match="no common commit"):
        merge_base(repository, "main", "other")


def test_the_path_along_first_parents_takes_a_merge_as_one_step(repository: Path, git: Git) -> None:
    good = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "-b", "branch")
    for text in "ab":
        git(repository, "commit", "--quiet", "--allow-empty", "-m", text)
    git(repository, "checkout", "--quiet", "main")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    git(repository, "merge", "--quiet", "--no-ff", "-m", "merge", "branch")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "last")
    commits = first_parent_range(repository, good, git(repository, "rev-parse", "HEAD"))
    assert [describe(repository, commit).subject for commit in commits] == ["one", "merge", "last"]


@pytest.mark.parametrize("names", [("main", "main"), ("main", "main~1"), ("branch", "main")])
def test_what_does_not_descend_is_refused(
    repository: Path, git: Git, names: tuple[str, str]
) -> None:
    git(repository, "branch", "branch")
    git(repository, "commit", "--quiet", "--amend", "-m", "anew")
    good, bad = (resolve(repository, name).commit for name in names)
    with pytest.raises(UsageError, match="does not descend"):
        first_parent_range(repository, good, bad)


def test_a_commit_is_described_by_subject_and_date(repository: Path, git: Git) -> None:
    git(repository, "commit", "--quiet", "--amend", "--date=2020-02-03T04:05:06Z", "-m", "a\n\nb")
    commit = describe(repository, "HEAD")
    assert (commit.subject, commit.date[:10]) == ("a", "2020-02-03")
    assert str(commit).startswith(f"{commit.commit[:10]} a (2020-02-03T")


def test_a_snapshot_holds_what_is_not_committed_and_not_what_is_ignored(
    repository: Path, git: Git
) -> None:
    for name in ("gone", "kept", "strange | name"):
        (repository / name).write_text(name)
    (repository / ".gitignore").write_text("ignored\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "more")
    (repository / "gone").unlink()
    (repository / "kept").write_text("changed")
    (repository / "folder").mkdir()
    (repository / "folder" / "new").write_text("new")
    (repository / "link").symlink_to("kept")
    (repository / "ignored").write_text("")
    with snapshot(repository) as folder:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert found == {
            ".git", ".gitignore", "file", "folder/new", "kept", "link", "strange | name",
        }  # fmt: skip
        assert (folder / "kept").read_text() == "changed"
        assert (folder / "link").is_symlink()
    assert not folder.exists()


def test_files_are_listed_by_what_git_makes_of_them(repository: Path, git: Git) -> None:
    (repository / ".gitignore").write_text("*.log\n")
    for name in ("a[b]/x.log", "a[b]/y", "ab/z"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("")
    folder = Path("a[b]")
    assert tracked(repository) == ["file"]
    assert tracked(repository, folder) == []
    assert untracked(repository, folder) == ["a[b]/y"]
    assert ignored(repository, folder) == ["a[b]/x.log"]


def test_a_hook_of_git_changes_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert find_root(repository) == repository.resolve()


@pytest.fixture
def nested(tmp_path: Path, git: Git) -> Path:
    """A repository whose `inner` is a submodule, "old" in its first commit and "new" in its second."""
    inner, root = tmp_path / "source", tmp_path / "nested"
    for folder in (inner, root):
        folder.mkdir()
        git(folder, "init", "--quiet", "--initial-branch=main")
    for text in ("old", "new"):
        (inner / "file").write_text(text)
        git(inner, "add", "file")
        git(inner, "commit", "--quiet", "-m", text)
        if text == "old":
            git(
                root,
                "-c",
                "protocol.file.allow=always",
                "submodule",
                "--quiet",
                "add",
                str(inner),
                "inner",
            )
        else:
            git(root / "inner", "pull", "--quiet")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", text)
    return root


def test_submodules_are_those_of_the_revision(nested: Path, git: Git) -> None:
    with worktree(nested, resolve(nested, "HEAD~1")) as folder:
        assert (folder / "inner" / "file").read_text() == "old"
    for repository in (nested, nested / "inner"):
        assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_submodule_that_is_not_checked_out_stays_empty(nested: Path, git: Git) -> None:
    git(nested, "submodule", "--quiet", "deinit", "inner")
    with worktree(nested, resolve(nested, "HEAD~1")) as folder:
        assert not list((folder / "inner").iterdir())


def test_a_snapshot_has_what_is_changed_in_a_submodule(nested: Path, git: Git) -> None:
    inner = nested / "inner"
    git(inner, "checkout", "--quiet", "HEAD~1")
    (inner / "untracked").write_text("mine")
    with snapshot(nested) as folder:
        assert (folder / "inner" / "file").read_text() == "old"
        assert (folder / "inner" / "untracked").read_text() == "mine"
