"""Git: which revision is meant, and a temporary work tree of it that goes away however the run ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import UsageError

_TIMEOUT_S = 120.0
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


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


def find_root(folder: Path) -> Path:
    """Return the top folder of the work tree that ``folder`` lies in.

    Raises:
        UsageError: if there is none, or no git.
    """
    try:
        return Path(_git(folder, "rev-parse", "--show-toplevel"))
    except subprocess.CalledProcessError as error:
        raise UsageError(
            f"{folder}: run compare in the git work tree that is to be compared: {_words(error)}"
        ) from error


def resolve(root: Path, name: str) -> Revision:
    """Return the commit that ``name`` means in the repository at ``root``.

    Raises:
        UsageError: if it means none.
    """
    try:
        commit = _git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
    except subprocess.CalledProcessError as error:
        raise UsageError(
            f"BASE {name!r}: no such revision here; fetch it first (a shallow clone lacks older ones)"
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


@contextmanager
def worktree(root: Path, revision: Revision) -> Iterator[Path]:
    """Check ``revision`` out into a temporary folder while the block runs; a linked git work tree.

    Submodules stay empty, and no hook runs.

    Raises:
        UsageError: if git cannot check it out.
    """
    # Whole or not at all: a signal that ends the run waits until it is made, or removed.
    with _signals_held():
        folder = Path(tempfile.mkdtemp(prefix="perfsuite-compare-"))
        try:
            _git(root, "worktree", "add", "--detach", "--quiet", str(folder), revision.commit)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UsageError(f"BASE {revision}: cannot be checked out: {_words(error)}") from error
    try:
        yield folder
    finally:
        with _signals_held():
            shutil.rmtree(folder, ignore_errors=True)
            _git(root, "worktree", "prune")


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
            command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        ).stdout.strip()
    except FileNotFoundError as error:
        raise UsageError("git is not installed, or not on the path") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"git {arguments[0]} took longer than {_TIMEOUT_S:.0f} s") from error


def _words(error: subprocess.CalledProcessError) -> str:
    """Return git's last line."""
    return str(error.stderr).strip().rpartition("\n")[2]
