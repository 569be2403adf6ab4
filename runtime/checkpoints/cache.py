"""The folder of what we made ourselves, checkpoints and kernels: each made once, whole or not at all.

What lies there is loaded, and some of it executed, so that it must be this user's: others may write to a
folder that ``SPLIT_LLAMA_CACHE`` names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from runtime.checkpoints.files import SteadyFile
from runtime.errors import CheckpointError

CACHE_VARIABLE = "SPLIT_LLAMA_CACHE"

_CHECKSUMS = "checksums.json"
_PATIENCE_S = 5.0  # with another process's lock, until it is said that it is waited for
_LONGEST_BUILD_S = 3600.0


class Cache:
    """One cache folder. Nothing is created in it before it is needed."""

    def __init__(self, root: Path | None = None) -> None:
        """``root``, or what ``SPLIT_LLAMA_CACHE`` names, or else a folder in the user's cache.

        Raises CheckpointError for a home folder that there is not.
        """
        named = os.environ.get(CACHE_VARIABLE) if root is None else str(root)
        try:
            folder = Path(named) if named else platformdirs.user_cache_path("split-llama")
            self.root = folder.expanduser().absolute()
        except RuntimeError as error:  # no such user, or no home
            raise CheckpointError(
                f"there is no cache folder {named or ''}: {error}; name one by {CACHE_VARIABLE}"
            ) from error

    def __contains__(self, key: str) -> bool:
        return (self.root / key).is_dir()

    def obtain(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder ``key``, first filled by ``build(folder)`` if it does not exist.

        Of several processes one builds and the others wait. The folder gets its name only when it
        is complete and on disk, so what a killed process leaves is never taken for a checkpoint;
        the next builder removes it. Raises CheckpointError.
        """
        if key in self:
            return self._whole(self._owned(self.root / key))
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked(key):
                if key not in self:
                    self._build(key, build)
        except OSError as error:
            raise CheckpointError(
                f"cannot build {key!r} in {self.root}: {error.strerror or error}; "
                f"{CACHE_VARIABLE} can name another folder"
            ) from error
        return self._owned(self.root / key)

    def _owned(self, folder: Path) -> Path:
        """Return ``folder`` if nobody but this user, or the system, can have put anything into it.

        Raises:
            CheckpointError: else, saying whose it is.
        """
        for path in (folder, *folder.iterdir()):
            status = path.lstat()
            if _is_another_users(status):
                problem = f"belongs to the user {status.st_uid}"
            elif status.st_mode & stat.S_IWOTH and not stat.S_ISLNK(status.st_mode):
                problem = "can be written by everybody"
            else:
                continue
            raise CheckpointError(
                f"{path} {problem}, and is not loaded; remove it, or name another folder by {CACHE_VARIABLE}"
            )
        return folder

    def _whole(self, folder: Path) -> Path:
        """Return ``folder`` if it holds what was made: a disk may lose some of it, and cleaners remove old files.

        Raises:
            CheckpointError: else, naming the file.
        """
        try:
            sums = json.loads((folder / _CHECKSUMS).read_bytes())
            wanted = {str(name): str(checksum) for name, checksum in sums.items()}
        except FileNotFoundError:
            return folder  # made by an earlier version
        except (OSError, ValueError, AttributeError) as error:
            raise _damaged(folder, _CHECKSUMS) from error
        for name, checksum in wanted.items():
            try:
                file = SteadyFile(folder / name)
                # Gigabytes are hashed once, and again where anything about them has changed.
                key = hashlib.sha256(json.dumps(file.stamp()).encode()).hexdigest()
                if self.recall(key) == checksum:
                    continue
                found = file.sha256()
            except CheckpointError as error:
                raise _damaged(folder, name) from error
            if found != checksum:
                raise _damaged(folder, name)
            self.remember(key, found)
        return folder

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Be the only one to build ``key``; say so where another process takes long about it."""
        lock = FileLock(self.root / f"{key}.lock", mode=0o600)
        deadline = time.monotonic() + _LONGEST_BUILD_S
        told = False
        while True:
            try:
                lock.acquire(timeout=_PATIENCE_S)
                break
            except Timeout:
                if time.monotonic() > deadline:
                    raise CheckpointError(
                        f"another process has held {lock.lock_file} for {_LONGEST_BUILD_S / 60:.0f} min; "
                        f"end it, or name another folder by {CACHE_VARIABLE}"
                    ) from None
            if not told:
                print(f"waiting for another process that holds {lock.lock_file}", file=sys.stderr)
                told = True
        try:
            yield
        finally:
            lock.release()

    def _build(self, key: str, build: Callable[[Path], None]) -> None:
        # One fixed name: whoever holds the lock may remove what is there.
        partial = self.root / f"{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        try:
            build(partial)
            sums = {path.name: SteadyFile(path).sha256() for path in sorted(partial.iterdir())}
            (partial / _CHECKSUMS).write_text(json.dumps(sums, indent=1))
            for path in (*partial.iterdir(), partial):
                path.chmod(path.stat().st_mode & ~0o022)  # whatever the umask
                _sync(path)
            partial.rename(self.root / key)
            _sync(self.root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def recall(self, key: str) -> str | None:
        """What ``remember`` stored under ``key``, if anything; what another user put there is nothing."""
        file = self.root / "digests" / key
        try:
            if _is_another_users(file.lstat()):
                return None
            return file.read_text().strip() or None
        except OSError:
            return None

    def remember(self, key: str, value: str) -> None:
        """Keeps a short text under ``key``. Best effort: it only saves time later."""
        folder = self.root / "digests"
        partial = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
                partial = Path(file.name)
                file.write(value)
            partial.replace(folder / key)
        except OSError:
            if partial is not None:  # of a full disk
                partial.unlink(missing_ok=True)


def _damaged(folder: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{folder / name} is missing or damaged since it was made; remove {folder}, and it is made again"
    )


def _is_another_users(status: os.stat_result) -> bool:
    return status.st_uid not in (0, os.geteuid())


def require_space(directory: Path, wanted: int) -> None:
    """Raises CheckpointError unless ``wanted`` bytes fit on the disk of ``directory``."""
    free = shutil.disk_usage(directory).free
    if free < wanted:
        raise CheckpointError(
            f"the checkpoint needs {_size(wanted)}, and {directory.parent} has only "
            f"{_size(free)} free; make room, or name another folder by {CACHE_VARIABLE}"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
