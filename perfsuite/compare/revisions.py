"""Git: which revision is meant, and temporary work trees that go away however the run ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import UsageError

_TIMEOUT_S = 600.0  # a checkout of a large repository takes its time
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_MERGE_BASE = "..."
_SUBMODULE = "160000"  # the mode of a tree's entry
# Set while a hook of git's runs: they would name another work tree than the one that is asked about.
_OF_HOOKS = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"})


@dataclass(frozen=True)
class Revision:
    """A commit: as the user named it, and its full hash."""

    name: str
    commit: str

    @property
    def short(self) -> str:
        """Enough of the hash for people."""
        return self.commit[:10]

    def __str__(self) -> str:
        return self.short if self.commit.startswith(self.name) else f"{self.name} ({self.short})"


@dataclass(frozen=True)
class Commit:
    """A commit as people know it."""

    commit: str
    subject: str  # the first line of its message
    date: str  # when it was written, ISO 8601

    def __str__(self) -> str:
        return f"{self.commit[:10]} {self.subject} ({self.date})"


def find_root(folder: Path) -> Path:
    """Return the top folder of the work tree that ``folder`` lies in.

    Raises:
        UsageError: if there is none, or no git.
    """
    try:
        return Path(_git(folder, "rev-parse", "--show-toplevel"))
    except subprocess.CalledProcessError as error:
        raise UsageError(
            f"{folder}: run it in the git work tree that is to be compared: {_words(error)}"
        ) from error


def resolve(root: Path, name: str, *, title: str = "BASE") -> Revision:
    """Return the commit that ``name`` means in the repository at ``root``.

    A name that ends in ``...`` is the point where HEAD branched off from it, as with ``git diff NAME...``.

    Raises:
        UsageError: if it means none; ``title`` says what it was given as.
    """
    if name.endswith(_MERGE_BASE):
        other = resolve(root, name.removesuffix(_MERGE_BASE), title=title)
        return Revision(name, merge_base(root, other.commit, "HEAD"))
    try:
        commit = _git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
    except subprocess.CalledProcessError as error:
        raise UsageError(
            f"{title} {name!r}: no such revision here; fetch it first (a shallow clone lacks older ones)"
        ) from error
    return Revision(name, commit)


def head(root: Path) -> tuple[Revision, bool]:
    """Return the commit that is checked out, and whether tracked files differ from it.

    Raises:
        UsageError: if there is no commit yet.
    """
    revision = resolve(root, "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return revision, bool(changed)


def first_with(root: Path, text: str, file: Path) -> Revision | None:
    """Return the oldest commit in HEAD's history that brought ``text`` into ``file``, if that can be said.

    It cannot in a shallow clone, whose oldest commit seems to have brought everything, nor where the text had been
    in another file before.
    """
    try:
        if _git(root, "rev-parse", "--is-shallow-repository") != "false":
            return None
        found = _git(
            root, "log", "--reverse", "--format=%H", f"-S{text}", "--", str(file.resolve())
        )
        commit = found.partition("\n")[0]
        parents = _git(root, "rev-list", "--max-count=1", "--parents", commit).split()[1:]
    except subprocess.CalledProcessError:
        return None
    for parent in parents:
        if _holds(root, parent, text):
            return None
    return Revision(commit, commit)


def _holds(root: Path, commit: str, text: str) -> bool:
    """Whether a file of ``commit`` has a line with ``text``."""
    try:
        return bool(_git(root, "grep", "--fixed-strings", "-l", "-e", text, commit, "--"))
    except subprocess.CalledProcessError:  # also: none has
        return False


def merge_base(root: Path, one: str, other: str) -> str:
    """Return the hash of the newest commit that both descend from.

    Raises:
        UsageError: if there is none.
    """
    try:
        return _git(root, "merge-base", one, other)
    except subprocess.CalledProcessError as error:
        raise UsageError(
            f"{one} and {other} have no common commit here; fetch more (a shallow clone lacks older ones)"
        ) from error


def first_parent_range(root: Path, good: str, bad: str) -> list[str]:
    """Return the hashes of the commits after ``good`` up to ``bad``, oldest first.

    Of a merge, only its first parent is followed: what a branch brought is one step.

    Raises:
        UsageError: if ``bad`` does not descend from ``good`` in this way.
    """
    commits = _git(root, "rev-list", "--first-parent", "--reverse", f"{good}..{bad}").split()
    if commits:
        parents = _git(root, "rev-list", "--max-count=1", "--parents", commits[0]).split()[1:]
        if parents[:1] == [good]:
            return commits
    raise UsageError(f"{bad[:10]} does not descend from {good[:10]} along first parents")


def describe(root: Path, commit: str) -> Commit:
    """Return what people know of a commit."""
    name, subject, date = _git(root, "log", "-1", "--format=%H%x00%s%x00%aI", commit).split("\0")
    return Commit(name, subject, date)


@contextmanager
def worktree(root: Path, revision: Revision) -> Iterator[Path]:
    """Check ``revision`` out into a temporary folder while the block runs; a linked git work tree.

    Submodules are filled as far as the work tree has them and their commits; no hook runs.

    Raises:
        UsageError: if git cannot check it out.
    """
    # Whole or not at all: a signal that ends the run waits until it is made, or removed.
    with _signals_held():
        folder = Path(tempfile.mkdtemp(prefix="perfsuite-compare-")).resolve()
        try:
            repositories = _check_out(root, revision.commit, folder)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UsageError(f"{revision}: cannot be checked out: {_words(error)}") from error
    try:
        yield folder
    finally:
        with _signals_held():
            shutil.rmtree(folder, ignore_errors=True)
            for repository in repositories:
                _git(repository, "worktree", "prune")


def _check_out(root: Path, commit: str, folder: Path) -> list[Path]:
    """Check ``commit`` out into ``folder``; return the repositories, submodules included, that know of it."""
    _git(root, "worktree", "add", "--detach", "--quiet", str(folder), commit)
    repositories = [root]
    for name, inner in _submodules(root, commit).items():
        own = root / name
        if (own / ".git").exists() and _has(own, inner):
            repositories += _check_out(own, inner, folder / name)
    return repositories


def _submodules(root: Path, commit: str) -> dict[str, str]:
    """Return the commits of a commit's submodules by their paths."""
    if not _has(root, f"{commit}:.gitmodules"):
        return {}
    found = {}
    for entry in _names(_git(root, "ls-tree", "-r", "-z", commit)):
        about, _, name = entry.partition("\t")
        mode, _, inner = about.split()
        if mode == _SUBMODULE:
            found[name] = inner
    return found


def _has(root: Path, name: str) -> bool:
    try:
        _git(root, "cat-file", "-e", name)
    except subprocess.CalledProcessError:
        return False
    return True


@contextmanager
def snapshot(root: Path) -> Iterator[Path]:
    """Copy the work tree as it is into a temporary one: uncommitted changes and new files, not what git ignores.

    Raises:
        UsageError: if git cannot check HEAD out.
    """
    with worktree(root, resolve(root, "HEAD")) as folder:
        _copy_changes(root, folder)
        yield folder


def _copy_changes(root: Path, folder: Path) -> None:
    changed = _git(root, "diff", "--name-only", "--no-renames", "-z", "HEAD")
    for name in [*_names(changed), *untracked(root)]:
        copy_or_remove(root / name, folder / name)
    for name in _submodules(root, "HEAD"):
        own, copied = root / name, folder / name
        if (copied / ".git").exists():
            _git(copied, "checkout", "--detach", "--quiet", _git(own, "rev-parse", "HEAD"))
            _copy_changes(own, copied)


def copy_or_remove(source: Path, target: Path) -> None:
    """Make ``target`` what ``source`` is: a file, a link, or nothing. Folders are left as they are."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    if source.is_symlink() or source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def tracked(root: Path, *folders: Path) -> list[str]:
    """Return the tracked files at or below ``folders`` (all where there are none), relative to ``root``."""
    return _names(_git(root, "ls-files", "-z", *_limits(folders)))


def untracked(root: Path, *folders: Path) -> list[str]:
    """Return the files there that git neither tracks nor ignores, relative to ``root``."""
    return _names(_git(root, "ls-files", "-z", "--others", "--exclude-standard", *_limits(folders)))


def ignored(root: Path, *folders: Path) -> list[str]:
    """Return the files there that git ignores, relative to ``root``."""
    listed = _git(
        root, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", *_limits(folders)
    )
    return _names(listed)


def _limits(folders: Sequence[Path]) -> list[str]:
    # Literal: a folder's name may hold what git takes for a pattern.
    return ["--", *(f":(literal){folder}" for folder in folders)] if folders else []


def _names(listed: str) -> list[str]:
    return [name for name in listed.split("\0") if name]


@contextmanager
def _signals_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints. Its hooks are off: a checkout for measuring is no reason to run any."""
    command = ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *arguments]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=True,
            timeout=_TIMEOUT_S,
            env={name: value for name, value in os.environ.items() if name not in _OF_HOOKS},
        ).stdout.strip("\n")
    except FileNotFoundError as error:
        raise UsageError("git is not installed, or not on the path") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"git {arguments[0]} took longer than {_TIMEOUT_S:.0f} s") from error


def _words(error: subprocess.CalledProcessError) -> str:
    """Return git's last line."""
    return str(error.stderr).strip().rpartition("\n")[2]
