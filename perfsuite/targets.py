"""From the running pytest session to those that are measured: the same configuration, but nothing that disturbs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from perfsuite.processes.forkserver import Target
from perfsuite.settings import Settings

_LEAST_TIMEOUT_S = 120.0
_LIMITS = 4  # time limits that a test's set-up, or one block of calls, may take

# Options that must be there when pytest starts; all others are set once it has read them.
_EARLY = {
    "xdist": ("-n0",),
    "_cov": ("--no-cov",),
}


def target(
    config: pytest.Config,
    file: Path,
    settings: Settings,
    *,
    title: str = "",
    fork: bool | None = None,
    root: Path | None = None,
    python: Path | None = None,
    import_roots: Sequence[Path] = (),
) -> Target:
    """Return what servers of ``file`` are.

    ``root`` is another work tree that takes the place of the one in which the session runs: whatever path lies
    in that one, ``file`` too, is mapped; ``import_roots`` then come before all else.
    """
    here = _work_tree(config) if root is not None else None

    def mapped(path: Path) -> Path:
        if root is None or here is None or not path.is_relative_to(here):
            return path
        return root / path.relative_to(here)

    roots = [str(path) for path in import_roots]
    environment: dict[str, str] = {}
    if roots:
        inherited = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([*roots, *filter(None, [inherited])])
    if python is not None and python != Path(sys.executable):  # scripts of its own come first
        environment["PATH"] = os.pathsep.join(
            [str(python.parent), os.environ.get("PATH", os.defpath)]
        )
    return Target(
        title=title or file.name,
        file=mapped(file),
        arguments=_arguments(config, mapped),
        options=_options(config),
        folder=_existing(mapped(Path(config.invocation_params.dir))),
        python=python or Path(sys.executable),
        # Another tree's processes import what that tree has, through PYTHONPATH alone.
        path=()
        if root is not None
        else [str(Path(entry or ".").resolve()) for entry in START_PATH],
        environment=environment,
        fork=settings.fork if fork is None else fork,
        threads=settings.threads,
        timeout_s=max(_LEAST_TIMEOUT_S, _LIMITS * settings.time_limit_s),
    )


def _arguments(config: pytest.Config, mapped: Any) -> list[str]:
    option = config.option
    arguments = [f"--rootdir={mapped(config.rootpath)}"]
    if config.inipath is not None:
        arguments += ["-c", str(mapped(config.inipath))]
    for plugin in option.plugins or []:
        if not plugin.startswith("perfsuite"):  # a measured session has a plugin of its own for it
            arguments += ["-p", plugin]
    for override in option.override_ini or []:
        arguments += ["-o", override]
    for warning in option.pythonwarnings or []:
        arguments += ["-W", warning]
    if option.importmode:
        arguments.append(f"--import-mode={option.importmode}")
    if getattr(option, "confcutdir", None):
        arguments.append(f"--confcutdir={mapped(Path(option.confcutdir).resolve())}")
    if getattr(option, "noconftest", False):
        arguments.append("--noconftest")
    for plugin, early in _EARLY.items():
        if config.pluginmanager.hasplugin(plugin):
            arguments += early
    # A session's log file is truncated by whoever opens it.
    return [*arguments, "-o", "log_file="]


def _options(config: pytest.Config) -> Mapping[str, Any]:
    """Return the options that can be told to another process."""
    found = {}
    for name, value in vars(config.option).items():
        try:
            found[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return found


def _existing(folder: Path) -> Path:
    """Return the folder or the nearest above it that exists: another revision may not have it."""
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _work_tree(config: pytest.Config) -> Path:
    from perfsuite.compare.revisions import find_root

    return find_root(config.rootpath)


START_PATH = list(sys.path)
"""Where this session imported from when the plugin was loaded, before conftest files added to it."""
