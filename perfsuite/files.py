"""Result files: refused before the run when they cannot be written, and never half written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfsuite.errors import UsageError


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


def _folder(path: Path) -> Path:
    return Path(os.path.realpath(path)).parent


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
