"""What a folder says of the project in it: its name, and whether it can be installed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from configparser import ConfigParser, Error
from pathlib import Path
from typing import Any

from perfsuite.errors import UsageError

_FILES = ("pyproject.toml", "setup.py", "setup.cfg")


def find_projects(root: Path, starts: Iterable[Path]) -> list[Path]:
    """Return the folders of the installable projects that ``starts`` lie in, nearest first."""
    found: dict[Path, None] = {}
    for start in starts:
        for folder in [start, *start.parents]:
            if not folder.is_relative_to(root):
                break
            if any((folder / name).is_file() for name in _FILES) and installable(folder):
                found[folder.relative_to(root)] = None
    return list(found)


def project_name(folder: Path) -> str | None:
    """Return the canonical name of the project in ``folder``, None where it does not say."""
    project = read_project(folder)
    name = table(project, "project").get("name") or table(project, "tool", "poetry").get("name")
    if name is None:
        name = _setup_cfg(folder).get("metadata", "name", fallback=None)
    return re.sub(r"[-_.]+", "-", str(name)).lower() if name else None


def read_project(folder: Path) -> dict[str, Any]:
    """Return what ``pyproject.toml`` in ``folder`` says; nothing where there is none.

    Raises:
        UsageError: if it is damaged.
    """
    path = folder / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def table(content: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the table below ``names``, an empty one where there is none."""
    found: Any = content
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def installable(folder: Path) -> bool:
    """Whether an installer can install what lies in ``folder``."""
    if (folder / "setup.py").is_file():
        return True
    project = read_project(folder)
    if "project" in project or "build-system" in project or table(project, "tool", "poetry"):
        return True
    return _setup_cfg(folder).has_section("metadata")


def _setup_cfg(folder: Path) -> ConfigParser:
    path = folder / "setup.cfg"
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        pass
    except (OSError, Error) as error:
        raise UsageError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    return parser
