"""The folder of checkpoints that we made ourselves: each made once, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from runtime.errors import CheckpointError

CACHE_VARIABLE = "SPLIT_LLAMA_CACHE"


class Cache:
    """One cache folder. Nothing is created in it before it is needed."""

    def __init__(self, root: Path | None = None) -> None:
        """``root``, or what ``SPLIT_LLAMA_CACHE`` names, or else a folder in the user's cache."""
        if root is None:
            named = os.environ.get(CACHE_VARIABLE)
            root = Path(named) if named else platformdirs.user_cache_path("split-llama")
        self.root = root.expanduser().absolute()

    def __contains__(self, key: str) -> bool:
        return (self.root / key).is_dir()

    def obtain(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder ``key``, first filled by ``build(folder)`` if it does not exist.

        Of several processes one builds and the others wait. The folder gets its name only when it
        is complete and on disk, so what a killed process leaves is never taken for a checkpoint;
        the next builder removes it. Raises CheckpointError.
        """
        if key in self:
            return self.root / key
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f"{key}.lock"):
                if key not in self:
                    self._build(key, build)
        except OSError as error:
            raise CheckpointError(
                f"cannot build {key!r} in {self.root}: {error.strerror or error}; "
                f"{CACHE_VARIABLE} can name another folder"
            ) from error
        return self.root / key

    def _build(self, key: str, build: Callable[[Path], None]) -> None:
        # One fixed name: whoever holds the lock may remove what is there.
        partial = self.root / f"{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            build(partial)
            for path in (*partial.iterdir(), partial):
                _sync(path)
            partial.rename(self.root / key)
            _sync(self.root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def recall(self, key: str) -> str | None:
        """What ``remember`` stored under ``key``, if anything."""
        try:
            return (self.root / "digests" / key).read_text().strip() or None
        except OSError:
            return None

    def remember(self, key: str, value: str) -> None:
        """Keeps a short text under ``key``. Best effort: it only saves time later."""
        folder = self.root / "digests"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
                file.write(value)
            Path(file.name).replace(folder / key)
        except OSError:
            return


def require_space(directory: Path, wanted: int) -> None:
    """Raises CheckpointError unless ``wanted`` bytes fit on the disk of ``directory``."""
    free = shutil.disk_usage(directory).free
    if free < wanted:
        raise CheckpointError(
            f"the checkpoint needs {wanted / 1e9:.1f} GB, and {directory.parent} has only "
            f"{free / 1e9:.1f} GB free; make room, or name another folder by {CACHE_VARIABLE}"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
