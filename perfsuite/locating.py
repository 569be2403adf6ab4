"""Where the baselines of a test lie: beside the nearest ini file, so that parts of a repository have their own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsuite.errors import UsageError

if TYPE_CHECKING:
    import pytest

SETTING = "perf_baselines"
DEFAULT = "baselines.json"

# In pytest's order. The first four count whatever they hold.
INI_FILES = (
    "pytest.toml",
    ".pytest.toml",
    "pytest.ini",
    ".pytest.ini",
    "pyproject.toml",
    "tox.ini",
    "setup.cfg",
)


@dataclass(frozen=True)
class IniFile:
    """A file that configures pytest, and the setting of the baselines in it."""

    path: Path
    setting: str | None

    @property
    def baselines(self) -> Path:
        """The file of the baselines."""
        return self.path.parent / (self.setting or DEFAULT)


def nearest_ini(start: Path) -> IniFile | None:
    """Return the ini file that pytest would use in ``start``, a folder or a file: the nearest one upward.

    A ``pyproject.toml`` without settings of pytest's counts where there is no other at all, as with pytest.

    Raises:
        UsageError: if a file that is met on the way is damaged.
    """
    start = start.resolve()
    bare: IniFile | None = None
    for folder in [start, *start.parents]:
        for name in INI_FILES:
            path = folder / name
            if not path.is_file():
                continue
            settings = _settings(path)
            if settings is not None:
                setting = settings.get(SETTING)
                return IniFile(path, None if setting is None else str(setting))
            if bare is None and name == "pyproject.toml":
                bare = IniFile(path, None)
    return bare


def default_file(folder: Path) -> Path:
    """Return the file of the baselines for whoever works in ``folder``.

    Raises:
        UsageError: if an ini file is damaged.
    """
    ini = nearest_ini(folder)
    return folder / DEFAULT if ini is None else ini.baselines


def baselines_file(test: Path, config: pytest.Config) -> Path:
    """Return the file of the baselines of ``test``, a test's file, in a session with ``config``.

    The session's own setting counts where the command line gives it, or gives the ini file; else that of the
    ini file nearest to the test does.

    Raises:
        UsageError: if an ini file is damaged.
    """
    given = any(
        text.partition("=")[0].strip() == SETTING for text in config.option.override_ini or ()
    )
    if not given and not config.option.inifilename:
        ini = nearest_ini(test.parent)
        if ini is not None:
            return ini.baselines
    folder = config.rootpath if config.inipath is None else config.inipath.parent
    return folder / (str(config.getini(SETTING)) or DEFAULT)


def _settings(path: Path) -> Mapping[str, Any] | None:
    """Return pytest's settings in ``path``; None where the file is about something else."""
    try:
        if path.suffix == ".toml":
            return _settings_of_toml(path)
        return _settings_of_ini(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _settings_of_toml(path: Path) -> Mapping[str, Any] | None:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is damaged: {error}") from error
    if path.name != "pyproject.toml":
        return _table(content, "pytest") or {}
    found = _table(_table(content, "tool") or {}, "pytest")
    if found is None:
        return None
    options = _table(found, "ini_options")
    return options if options is not None else found or None


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found = content.get(name)
    return found if isinstance(found, dict) else None


def _settings_of_ini(path: Path) -> Mapping[str, Any] | None:
    import iniconfig

    try:
        content = iniconfig.IniConfig(str(path))
    except iniconfig.ParseError as error:
        raise UsageError(f"{path}: is damaged: {error}") from error
    section = "tool:pytest" if path.name == "setup.cfg" else "pytest"
    if section in content:
        return dict(content[section].items())
    return {} if path.name in INI_FILES[:4] else None
