"""The Python that a revision runs on: the running one, or an environment laid over it.

A layer is needed where the revision depends on what is not installed, and where the environment itself leads to the
work tree (an editable install), because that would serve whichever revision runs there.
"""

from __future__ import annotations

import json
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfsuite.compare import installers
from perfsuite.compare.imports import Survey
from perfsuite.compare.installers import Installer
from perfsuite.compare.projects import installable, read_project, table
from perfsuite.errors import UsageError

CONSTRAINTS = "constraints.txt"
REQUIREMENTS = "requirements.txt"

_BENEATH = """\
\"\"\"Adds the environment beneath this one, less what leads from there to a work tree.\"\"\"

import json
import site
import sys

_CONTENT = json.loads({content!r})
for _folder in _CONTENT["sites"]:
    site.addsitedir(_folder)
sys.path[:] = [entry for entry in sys.path if entry not in _CONTENT["path"]]
for _hooks in (sys.meta_path, sys.path_hooks):
    _hooks[:] = [one for one in _hooks if getattr(one, "__module__", None) not in _CONTENT["finders"]]
sys.path_importer_cache.clear()
"""


def declared(tree: Path, projects: Sequence[Path]) -> Mapping[str, Any]:
    """Return all that says what the projects of a tree depend on, to be compared with another tree's.

    Raises:
        UsageError: if a ``pyproject.toml`` is damaged.
    """
    found: dict[str, Any] = {CONSTRAINTS: _text(tree / CONSTRAINTS)}
    for project in projects:
        folder = tree / project
        content = read_project(folder)
        told = table(content, "project")
        found[str(project)] = {
            "python": told.get("requires-python"),
            "dependencies": told.get("dependencies"),
            "poetry": table(content, "tool", "poetry", "dependencies"),
            "setup.py": _text(folder / "setup.py"),
            "setup.cfg": _text(folder / "setup.cfg"),
            "dynamic": {
                name: _text(folder / name)
                for name in _files(table(content, "tool", "setuptools", "dynamic"))
            },
        }
    if not projects:
        found[REQUIREMENTS] = _text(tree / REQUIREMENTS)
    return found


def missing(tree: Path, projects: Sequence[Path], installer: Installer) -> list[str]:
    """Return the requirements that a tree's projects lack in the running environment, with their versions.

    Raises:
        UsageError: if the tree wants another Python, or what it depends on cannot be found.
    """
    constraints: Path | None = tree / CONSTRAINTS
    if not (tree / CONSTRAINTS).is_file():
        constraints = None
    folders = [tree / project for project in projects if installable(tree / project)]
    if folders:
        return installers.missing(installer, folders, constraints)
    requirements = tree / REQUIREMENTS
    if requirements.is_file():
        return installer.missing(["-r", str(requirements)], constraints)
    return []


def layer(folder: Path, survey: Survey, import_roots: Sequence[Path]) -> Path:
    """Lay an environment in ``folder`` over the running one, and return its interpreter.

    What leads from the running one to the work tree is left out, unless it is one of ``import_roots``.

    Raises:
        UsageError: if it cannot be made.
    """
    try:
        venv.create(folder, symlinks=True)
    except OSError as error:
        raise UsageError(f"an environment cannot be made in {folder}: {error.strerror}") from error
    content = {
        "sites": survey.sites,
        "path": [entry for entry in survey.hidden_path if Path(entry) not in import_roots],
        "finders": survey.hidden_finders,
    }
    site = packages(folder)
    (site / "_perfsuite_beneath.py").write_text(
        _BENEATH.format(content=json.dumps(content)), encoding="utf-8"
    )
    (site / "_perfsuite_beneath.pth").write_text("import _perfsuite_beneath\n", encoding="utf-8")
    return folder / "bin" / "python"


def packages(folder: Path) -> Path:
    """Return the folder of installed packages of the environment in ``folder``."""
    return folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _files(dynamic: Mapping[str, Any]) -> list[str]:
    """Return the files that setuptools reads dependencies from."""
    named = table(dynamic, "dependencies").get("file", [])
    return [named] if isinstance(named, str) else [str(one) for one in named]
