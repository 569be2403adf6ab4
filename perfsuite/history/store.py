"""The folder that pytest-benchmark saves into: reading its runs, and adding more.

Files are ``<folder>/<system>/NNNN_<commit>_<time>.json``, as ``--benchmark-autosave`` names them.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfsuite.errors import UsageError
from perfsuite.history.runs import Run, parse_run, read_run
from perfsuite.schema import read_json

_NUMBERED = re.compile(r"(\d{4,})_")


@dataclass(frozen=True)
class Stored:
    """What a folder holds: its runs by the age of their commits, and what could not be read."""

    runs: tuple[Run, ...]
    unreadable: tuple[str, ...] = ()  # a line each, naming the file


def read(storage: Path) -> Stored:
    """Read every run below ``storage``; a damaged file, or benchmark, is named and stops no other.

    Raises UsageError when ``storage`` is a single file that is damaged, or does not exist.
    """
    if storage.is_file():
        run = read_run(storage)
        return Stored((run,), run.damaged)
    if not storage.is_dir():
        raise UsageError(
            f"--storage {storage}: no such folder; pytest perfsuite --benchmark-autosave makes one"
        )
    runs: list[Run] = []
    unreadable: list[str] = []
    for path in sorted([*storage.glob("*.json"), *storage.glob("*/*.json")]):
        try:
            runs.append(read_run(path))
            unreadable += runs[-1].damaged
        except UsageError as error:
            unreadable.append(str(error))
    runs.sort(key=lambda run: (run.committed, run.started, run.path.name))
    return Stored(tuple(runs), tuple(unreadable))


def add(storage: Path, source: Path) -> Path | None:
    """Store a copy of the pytest-benchmark file ``source``; None when the folder has it already.

    Raises UsageError when ``source`` is damaged or the copy cannot be written.
    """
    content = read_json(source)
    run = parse_run(content, source)
    folder = storage / _system(run.machine_info)
    for known in folder.glob("*.json"):
        if _same(known, content):
            return None
    name = f"{_safe(run.commit) or 'unversioned'}_{run.started:%Y%m%d_%H%M%S}"
    if run.dirty:
        name += "_uncommited-changes"  # as pytest-benchmark spells it
    return _write_numbered(folder, name, content)


def _write_numbered(folder: Path, name: str, content: object) -> Path:
    """Write ``NNNN_<name>.json`` under the next number: whole, and never over another writer's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, suffix=".part") as file:
            json.dump(content, file, indent=4)
            file.flush()
            Path(file.name).chmod(0o644)
            while True:
                path = folder / f"{_next_number(folder):04}_{name}.json"
                try:
                    os.link(file.name, path)
                except FileExistsError:
                    continue
                return path
    except OSError as error:
        raise UsageError(f"--storage {folder}: cannot be written: {error.strerror}") from error


def _next_number(folder: Path) -> int:
    numbers = [_NUMBERED.match(path.name) for path in folder.glob("*.json")]
    return 1 + max((int(number[1]) for number in numbers if number), default=0)


def _system(machine: Mapping[str, str]) -> str:
    """The folder that pytest-benchmark chooses, from what its file says of the machine."""
    python = ".".join(machine.get("python_version", "").split(".")[:2])
    bits = "32bit" if machine.get("machine") in ("i386", "i686", "armv7l") else "64bit"
    parts = (machine.get("system", ""), machine.get("python_implementation", ""), python, bits)
    return _safe("-".join(part for part in parts if part)) or "unknown"


def _safe(text: str) -> str:
    """A text of somebody else's as a part of a file's name, which leads to no other folder."""
    return re.sub(r"[^\w.-]", "_", text).lstrip(".")


def _same(path: Path, content: object) -> bool:
    try:
        known: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return known == content
