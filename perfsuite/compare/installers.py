"""pip or uv, whichever serves the running environment: what would be installed, and installing into a folder."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from perfsuite.compare.projects import read_project, table
from perfsuite.errors import UsageError

_TIMEOUT_S = 1800.0  # a package may have to be compiled
_FRAMES = " \t\u2502\u2570\u2500\u25b6\u00d7"  # that pip and uv draw around what they quote
# Lines that only say that a line before them said why.
_HOLLOW = re.compile(
    r"subprocess-exited-with-error|Failed building wheel|Failed to build|Could not build wheels|"
    r"metadata-generation-failed|did not run successfully|Getting requirements to build|"
    r"This error originates from"
)

T = TypeVar("T")


class Installer(Protocol):
    """Installs packages. Every method raises UsageError, in one line, where it cannot."""

    def missing(
        self, wanted: Sequence[str], constraints: Path | None, *, isolated: bool = True
    ) -> list[str]:
        """Return what is to be installed, projects in folders aside, before ``wanted`` can run here.

        Args:
            wanted: Folders of projects, requirements, or ``-r`` and a file.
            constraints: A file that limits versions.
            isolated: A project is built in an environment of its own, with what it asks for.

        Returns:
            Requirements of single versions.
        """
        ...

    def install(self, wanted: Sequence[str], target: Path, *, isolated: bool = True) -> None:
        """Install ``wanted``, without what it depends on, into the folder ``target``."""
        ...


def find_installer() -> Installer:
    """Return the one that serves this interpreter's environment.

    Raises:
        UsageError: if there is none.
    """
    if importlib.util.find_spec("pip") is not None:
        return Pip()
    uv = shutil.which("uv")
    if uv is not None:
        return Uv(uv)
    raise UsageError(
        f"{sys.prefix} has neither pip nor uv, and a revision needs what is not installed there; install pip"
    )


@dataclass(frozen=True)
class Pip:
    """The pip of the running interpreter."""

    def missing(
        self, wanted: Sequence[str], constraints: Path | None, *, isolated: bool = True
    ) -> list[str]:
        options = ["--dry-run", "--quiet", "--report", "-", *_isolation(isolated)]
        if constraints is not None:
            options += ["--constraint", str(constraints)]
        report = json.loads(_run([*self._command, *options, *wanted]))
        found = []
        for one in report["install"]:
            direct = one.get("is_direct", False)
            origin = one["download_info"]
            if direct and "dir_info" in origin:
                continue
            metadata = one["metadata"]
            pinned = f"{metadata['name']}=={metadata['version']}"
            found.append(f"{metadata['name']} @ {_url(origin)}" if direct else pinned)
        return found

    def install(self, wanted: Sequence[str], target: Path, *, isolated: bool = True) -> None:
        options = ["--quiet", "--no-deps", "--target", str(target), *_isolation(isolated)]
        _run([*self._command, *options, *wanted])

    @property
    def _command(self) -> list[str]:
        options = ["--disable-pip-version-check", "--no-input"]
        return [sys.executable, "-m", "pip", "install", *options]


@dataclass(frozen=True)
class Uv:
    """uv, for environments without pip."""

    program: str

    def missing(
        self, wanted: Sequence[str], constraints: Path | None, *, isolated: bool = True
    ) -> list[str]:
        options = ["--dry-run", *_isolation(isolated)]
        if constraints is not None:
            options += ["--constraint", str(constraints)]
        return uv_additions(_run([*self._command, *options, *wanted], errors=True))

    def install(self, wanted: Sequence[str], target: Path, *, isolated: bool = True) -> None:
        options = ["--quiet", "--no-deps", "--target", str(target), *_isolation(isolated)]
        _run([*self._command, *options, *wanted])

    @property
    def _command(self) -> list[str]:
        return [self.program, "pip", "install", "--no-progress", "--python", sys.executable]


def uv_additions(output: str) -> list[str]:
    """Return the requirements that a dry run of uv lists as to be added, local projects aside."""
    found = []
    for line in output.splitlines():
        added = re.fullmatch(r"\s*\+ (\S+)==(\S+)(?: \(from (\S+)\))?\s*", line)
        if added is None:
            continue
        name, version, url = added.groups()
        if url is None:
            found.append(f"{name}=={version}")
        elif not url.startswith("file:") or url.endswith((".whl", ".tar.gz", ".zip")):
            found.append(f"{name} @ {url}")
    return found


def missing(installer: Installer, folders: Sequence[Path], constraints: Path | None) -> list[str]:
    """Return what the projects in ``folders`` lack in the running environment; see ``Installer.missing``."""
    wanted = [str(folder) for folder in folders]
    return _first_that_works(
        folders, lambda isolated: installer.missing(wanted, constraints, isolated=isolated)
    )


def build(installer: Installer, folder: Path, target: Path) -> None:
    """Build the project in ``folder``, and install it alone into the folder ``target``.

    Raises:
        UsageError: if it cannot be built.
    """

    def install(isolated: bool) -> None:
        shutil.rmtree(target, ignore_errors=True)
        installer.install([str(folder)], target, isolated=isolated)

    _first_that_works([folder], install)


def _first_that_works(folders: Sequence[Path], use: Callable[[bool], T]) -> T:
    """Use the build tools that are installed here, which asks no index for any; else isolated ones."""
    if any(importlib.util.find_spec(_build_tool(folder)) is None for folder in folders):
        return use(True)
    try:
        return use(False)
    except UsageError as error:
        first = str(error)  # the versions may be others than the project needs
    try:
        return use(True)
    except UsageError as error:
        if str(error) == first:
            raise
        raise UsageError(
            f"{error}; with the build tools that are installed here: {first}"
        ) from error


def _build_tool(folder: Path) -> str:
    """Return the package that builds the project in ``folder``."""
    system = table(read_project(folder), "build-system")
    # Without one, setuptools does it. Its own code in the project is nothing that is installed here.
    backend = str(system.get("build-backend", "setuptools.build_meta"))
    return backend.partition(":")[0].partition(".")[0]


def _isolation(isolated: bool) -> list[str]:
    return [] if isolated else ["--no-build-isolation"]


def _run(command: Sequence[str], *, errors: bool = False) -> str:
    """Return what a command prints; with ``errors`` what it prints on stderr too."""
    try:
        done = subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        raise UsageError(reason(f"{error.stdout or ''}\n{error.stderr or ''}")) from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{command[0]} took longer than {_TIMEOUT_S:.0f} s") from error
    return done.stdout


def reason(output: str) -> str:
    """Return the line of an installer's output that says why it failed."""
    lines = [" ".join(line.strip(_FRAMES).split()) for line in output.splitlines()]
    lines = [line for line in lines if line]
    telling = [
        line for line in lines if re.search("error|requires a different", line, re.IGNORECASE)
    ]
    substantial = [line for line in telling if not _HOLLOW.search(line)]
    found = substantial or telling or lines
    return found[-1].removeprefix("ERROR: ") if found else "no reason given"


def _url(origin: dict[str, object]) -> str:
    vcs = origin.get("vcs_info")
    if isinstance(vcs, dict):
        return f"{vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"
    return str(origin["url"])
