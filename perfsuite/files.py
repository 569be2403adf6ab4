"""Result files: refused before the run when they cannot be written, and never half written."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perfsuite.errors import UsageError

_LOCK_POLL_S = 0.01


def check_writable(path: Path, *, option: str = "--json") -> None:
    """Raise UsageError, which names ``option``, unless a file can be written at ``path``. Changes nothing there."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{option} {path}: not a regular file")
        with tempfile.NamedTemporaryFile(dir=_folder(path)):
            pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{option} {path}: cannot be written: {reason}") from error


def check_outputs(files: Mapping[str, Path | None]) -> None:
    """Raise UsageError for the first of ``files``, by its option, that is given and cannot be written."""
    for option, path in files.items():
        if path is not None:
            check_writable(path, option=option)


def write_json(path: Path, result: Mapping[str, Any], option: str = "--json") -> None:
    """Write ``result`` to ``path``, whole or not at all. Raises UsageError, after ``option``, when it cannot."""
    write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n", option=f"{option} ")


def write_text(path: Path, text: str, *, option: str = "") -> None:
    """Write ``text`` to ``path``, whole or not at all. Raises UsageError, after ``option``, when it cannot."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=_folder(path), delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # a temporary file is private, a result is not
        temporary.replace(os.path.realpath(path))
    except OSError as error:
        raise UsageError(f"{option}{path}: cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, timeout_s: float = 60.0) -> Iterator[None]:
    """Keep other processes of this machine out of their blocks for ``path``, or for files beside it.

    The folder itself is what is locked: no file is left behind, and the lock ends with the process. Systems
    without such locks, Windows among them, go without.

    Raises:
        UsageError: if there is no such folder, or others hold it for longer than ``timeout_s`` seconds.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        folder = os.open(_folder(path), os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"{path}: another process has been writing it for {timeout_s:.0f} s; end it"
                    ) from error
                time.sleep(_LOCK_POLL_S)
        try:
            yield
        finally:
            fcntl.flock(folder, fcntl.LOCK_UN)  # a process forked meanwhile must not keep it
    finally:
        os.close(folder)


def _folder(path: Path) -> Path:
    return Path(os.path.realpath(path)).parent


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
