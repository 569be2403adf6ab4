"""From a pytest session to those that it measures: a session of its own is made, but no process."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from perfsuite import targets
from perfsuite.processes.forkserver import Target
from perfsuite.settings import Settings

SETTINGS = Settings(update=None, baselines=None, report=None)


@dataclass
class Config:
    """As much of pytest's configuration as is passed on."""

    rootpath: Path
    inipath: Path | None = None
    folder: Path | None = None
    plugins: Collection[str] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def option(self) -> Namespace:
        given: dict[str, Any] = {
            "plugins": [],
            "override_ini": None,
            "pythonwarnings": None,
            "importmode": "prepend",
        }
        return Namespace(**{**given, **self.options})

    @property
    def invocation_params(self) -> Namespace:
        return Namespace(dir=self.folder or self.rootpath)

    @property
    def pluginmanager(self) -> Namespace:
        return Namespace(hasplugin=lambda name: name in self.plugins)


def target(config: Config, file: Path, settings: Settings = SETTINGS, **other: Any) -> Target:
    return targets.target(cast("pytest.Config", config), file, settings, **other)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree with a project below its root."""
    tree = tmp_path / "tree"
    (tree / "package" / "tests").mkdir(parents=True)
    monkeypatch.setattr(targets, "_work_tree", lambda config: tree)
    return tree / "package"


def test_a_measured_session_is_configured_as_this_one(project: Path) -> None:
    config = Config(
        project,
        project / "pytest.ini",
        project / "tests",
        options={
            "plugins": ["no:cacheprovider", "mine", "perfsuite.plugin"],
            "override_ini": ["a=b"],
            "pythonwarnings": ["error"],
            "importmode": "importlib",
            "confcutdir": str(project),
            "noconftest": True,
        },
    )
    made = target(config, project / "tests" / "test_a.py")
    assert list(made.arguments) == [
        f"--rootdir={project}",
        *("-c", str(project / "pytest.ini")),
        *("-p", "no:cacheprovider", "-p", "mine"),
        *("-o", "a=b"),
        *("-W", "error"),
        "--import-mode=importlib",
        f"--confcutdir={project}",
        "--noconftest",
        *("-o", "log_file="),
    ]
    assert made.title == "test_a.py"
    assert made.file == project / "tests" / "test_a.py"
    assert made.folder == project / "tests"
    assert made.python == Path(sys.executable)
    assert made.environment == {}
    assert (made.fork, made.threads) == (True, 1)


def test_a_session_without_an_ini_file_names_none(project: Path) -> None:
    assert "-c" not in target(Config(project), project / "test_a.py").arguments


@pytest.mark.parametrize(
    ("plugins", "switch"), [(["xdist"], "-n0"), (["_cov"], "--no-cov"), ([], None)]
)
def test_plugins_that_disturb_are_switched_off_where_they_are(
    project: Path, plugins: list[str], switch: str | None
) -> None:
    arguments = target(Config(project, plugins=plugins), project / "test_a.py").arguments
    assert [one for one in arguments if one in ("-n0", "--no-cov")] == ([switch] if switch else [])


def test_the_log_file_is_not_opened_whatever_the_user_overrides(project: Path) -> None:
    config = Config(project, options={"override_ini": ["log_file=mine.log"]})
    assert list(target(config, project / "test_a.py").arguments)[-2:] == ["-o", "log_file="]


def test_options_are_told_as_far_as_they_can_be(project: Path) -> None:
    config = Config(
        project,
        options={"numprocesses": 4, "database": "sqlite", "path": Path("x"), "hook": lambda: None},
    )
    made = target(config, project / "test_a.py").options
    assert json.loads(json.dumps(made)) == made
    assert made["numprocesses"] == 4
    assert made["database"] == "sqlite"
    assert not {"path", "hook"} & made.keys()


def test_forking_is_the_tests_choice_before_the_settings(project: Path) -> None:
    file = project / "test_a.py"
    forked = Settings(update=None, baselines=None, report=None, fork=False, threads=3)
    made = target(Config(project), file, forked)
    assert (made.fork, made.threads) == (False, 3)
    assert target(Config(project), file, forked, fork=True).fork is True


def test_another_tree_takes_the_place_of_this_one(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "package").mkdir(parents=True)  # but no folder package/tests
    config = Config(
        project,
        tmp_path / "outside.ini",
        project / "tests",
        options={"confcutdir": str(project / "tests")},
    )
    made = target(
        config,
        project / "tests" / "test_a.py",
        title="base",
        root=other,
        python=Path("/env/bin/python"),
        import_roots=[other / "src"],
    )
    assert made.title == "base"
    assert made.file == other / "package" / "tests" / "test_a.py"
    assert made.folder == other / "package"
    assert made.python == Path("/env/bin/python")
    assert f"--rootdir={other / 'package'}" in made.arguments
    assert f"--confcutdir={other / 'package' / 'tests'}" in made.arguments
    # What lies outside of the tree is both sides'.
    assert str(tmp_path / "outside.ini") in made.arguments
    assert made.path == ()  # what it imports comes by PYTHONPATH alone
    assert made.environment["PYTHONPATH"].split(os.pathsep)[0] == str(other / "src")
    assert made.environment["PATH"].split(os.pathsep)[0] == "/env/bin"


def test_import_roots_come_before_what_is_inherited(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots: dict[str, Any] = {"root": project.parent, "import_roots": [Path("/a"), Path("/b")]}
    monkeypatch.delenv("PYTHONPATH", raising=False)
    made = target(Config(project), project / "test_a.py", **roots)
    assert made.environment == {"PYTHONPATH": f"/a{os.pathsep}/b"}
    monkeypatch.setenv("PYTHONPATH", "/c")
    made = target(Config(project), project / "test_a.py", **roots)
    assert made.environment == {"PYTHONPATH": os.pathsep.join(("/a", "/b", "/c"))}
    assert target(Config(project), project / "test_a.py").environment == {}


def test_the_path_at_the_start_is_passed_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "START_PATH", [str(project / "src"), "/usr/lib"])
    here = target(Config(project), project / "test_a.py")
    assert here.path == [str(project / "src"), "/usr/lib"]
