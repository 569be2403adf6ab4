"""The Python that a revision runs on: this one, unless the revision declares dependencies that it lacks.

What it declares is in ``pyproject.toml`` (``requires-python`` and ``dependencies``) and, where there is
one, in ``constraints.txt``; of the latter, only pins of packages that the dependencies bring count, so
that a newer linter builds nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from perfsuite.errors import UsageError

_INSTALL_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Declared:
    """The dependencies of a tree: requirements as they are written, and pins by canonical name."""

    python: str
    requirements: frozenset[str]
    pins: dict[str, str]

    def same_as(self, other: Declared) -> bool:
        """Whether both may run on one environment: equal requirements, equal pins of what these bring."""
        if (self.python, self.requirements) != (other.python, other.requirements):
            return False
        brought = {requirement.name for requirement in _closure(self.requirements)}
        differing = {
            name
            for name in self.pins.keys() | other.pins.keys()
            if self.pins.get(name) != other.pins.get(name)
        }
        return not differing & brought

    def satisfied(self) -> bool:
        """Whether what is installed here is what this tree declares."""
        for requirement in _closure(self.requirements):
            pinned = Requirement(self.pins.get(requirement.name, requirement.name))
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                return False
            for wanted in (requirement.specifier, pinned.specifier):
                if not wanted.contains(version, prereleases=True):
                    return False
        return True


def declared(tree: Path) -> Declared:
    """Read what the tree at ``tree`` declares.

    Raises:
        UsageError: naming the file that is missing or damaged.
    """
    path = tree / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        python = str(project.get("requires-python", ""))
        requirements = frozenset(str(Requirement(text)) for text in project.get("dependencies", []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidRequirement) as error:
        raise UsageError(f"{path.name} of {tree.name}: cannot be read: {error}") from error
    pins: dict[str, str] = {}
    if (tree / "constraints.txt").is_file():
        for line in (tree / "constraints.txt").read_text(encoding="utf-8").splitlines():
            text = line.partition("#")[0].strip()
            if text:
                requirement = _requirement(text)
                pins[canonicalize_name(requirement.name)] = str(requirement)
    return Declared(python, requirements, pins)


def build(tree: Path, folder: Path) -> Path:
    """Make an environment for the tree at ``tree`` in ``folder``, and return its interpreter.

    It is laid over the running one: only what this one lacks, or has in another version, is installed.

    Raises:
        UsageError: if the tree wants another Python, or pip cannot install what it declares.
    """
    wanted = declared(tree)
    running = ".".join(map(str, sys.version_info[:3]))
    if not SpecifierSet(wanted.python).contains(running, prereleases=True):
        raise UsageError(f"BASE needs Python {wanted.python}, and this is {running}")
    venv.create(folder)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beneath = folder / "lib" / version / "site-packages" / "beneath.pth"
    beneath.write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    command += sorted(wanted.requirements)
    if wanted.pins:
        command += ["--constraint", str(tree / "constraints.txt")]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().rpartition("\n")[2] or "pip failed"
        raise UsageError(f"BASE's dependencies cannot be installed: {words}") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError("BASE's dependencies cannot be installed: pip took too long") from error
    return python


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise UsageError(f"constraints.txt: {text}: {error}") from error


def _closure(requirements: Iterable[str]) -> list[Requirement]:
    """Return all that the requirements bring, as far as it is installed here; names are canonical."""
    found: list[Requirement] = []
    seen: set[str] = set()
    pending = [Requirement(text) for text in requirements]
    while pending:
        requirement = pending.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        requirement.name = canonicalize_name(requirement.name)
        found.append(requirement)
        if requirement.name in seen:
            continue
        seen.add(requirement.name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            pending += map(Requirement, metadata.requires(requirement.name) or [])
    return found
