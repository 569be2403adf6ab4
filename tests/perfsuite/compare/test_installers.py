from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfsuite.compare import installers
from perfsuite.compare.installers import (
    Pip,
    Uv,
    build,
    find_installer,
    missing,
    reason,
    uv_additions,
)
from perfsuite.errors import UsageError

MakeWheel = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "ERROR: No matching distribution found for x==9",
            "No matching distribution found for x==9",
        ),
        (
            (
                "  error: subprocess-exited-with-error\n"
                "  \u00d7 Building wheel for x did not run successfully.\n"
                "  \u2502 exit code: 1\n"
                "  \u2570\u2500> [3 lines of output]\n"
                "      gcc -c x.c\n"
                "      error: command 'gcc' failed\n"
                "  note: This error originates from a subprocess, and is likely not a problem with pip.\n"
                "  ERROR: Failed building wheel for x\n"
                "ERROR: Could not build wheels for x, which is required to install x\n"
            ),
            "error: command 'gcc' failed",
        ),
        ("one\ntwo\n", "two"),
        ("", "no reason given"),
    ],
)
def test_the_line_that_says_why_is_found(output: str, line: str) -> None:
    assert reason(output) == line


def test_what_uv_would_add_is_read() -> None:
    output = """Resolved 4 packages in 4ms
Would download 1 package
Would uninstall 1 package
Would install 4 packages
 - numpy==2.2.0
 + numpy==2.1.0
 + project==0.1.0 (from file:///tmp/project)
 + other==1.0 (from file:///tmp/other-1.0-py3-none-any.whl)
 + far==1.0 (from git+https://example.org/far@0123)
"""
    assert uv_additions(output) == [
        "numpy==2.1.0",
        "other @ file:///tmp/other-1.0-py3-none-any.whl",
        "far @ git+https://example.org/far@0123",
    ]


def test_what_pip_would_add_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def item(name: str, origin: dict[str, Any], direct: bool) -> dict[str, Any]:
        metadata = {"name": name, "version": "1.0"}
        return {"metadata": metadata, "download_info": origin, "is_direct": direct}

    git = {"vcs": "git", "commit_id": "0123"}
    report = [
        item("project", {"url": "file:///tmp/project", "dir_info": {}}, True),
        item("numpy", {"url": "https://files.example.org/numpy.whl"}, False),
        item("near", {"url": "file:///tmp/near.whl", "archive_info": {}}, True),
        item("far", {"url": "https://example.org/far", "vcs_info": git}, True),
    ]
    commands: list[list[str]] = []

    def run(command: list[str]) -> str:
        commands.append(command)
        return json.dumps({"install": report})

    monkeypatch.setattr(installers, "_run", run)
    assert Pip().missing(["/tree"], Path("/tree/constraints.txt")) == [
        "numpy==1.0",
        "near @ file:///tmp/near.whl",
        "far @ git+https://example.org/far@0123",
    ]
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert "--dry-run" in command
    assert command[-3:] == ["--constraint", "/tree/constraints.txt", "/tree"]


def test_uv_serves_where_there_is_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "pip" else find_spec(name)
    )
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert find_installer() == Uv("/bin/uv")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match="neither pip nor uv"):
        find_installer()


def test_uv_is_told_which_environment_is_meant(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "$@" >> "$0.log"\necho " + numpy==2.1.0" >&2\n')
    uv.chmod(0o755)
    assert Uv(str(uv)).missing(["/tree"], None) == ["numpy==2.1.0"]
    Uv(str(uv)).install(["numpy==2.1.0"], tmp_path / "target", isolated=False)
    dry, real = (tmp_path / "uv.log").read_text().splitlines()
    assert f"--python {sys.executable}" in dry
    assert "--dry-run" in dry
    assert real.endswith(f"--no-deps --target {tmp_path}/target --no-build-isolation numpy==2.1.0")


class Recorder:
    """An installer that fails as often as it is told to."""

    def __init__(self, *failures: str) -> None:
        self.isolated: list[bool] = []
        self._failures = list(failures)

    def missing(self, wanted: object, constraints: object, *, isolated: bool = True) -> list[str]:
        self.isolated.append(isolated)
        if self._failures:
            raise UsageError(self._failures.pop(0))
        return ["found==1"]

    def install(self, wanted: object, target: object, *, isolated: bool = True) -> None:
        self.missing(wanted, None, isolated=isolated)


@pytest.mark.parametrize(
    ("backend", "failures", "isolated"),
    [
        ("setuptools.build_meta", [], [False]),
        ("setuptools.build_meta", ["other versions"], [False, True]),
        ("no_such_backend", [], [True]),
    ],
)
def test_the_build_tools_that_are_here_come_first(
    tmp_path: Path, backend: str, failures: list[str], isolated: list[bool]
) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[build-system]\nbuild-backend = "{backend}"\n')
    recorder = Recorder(*failures)
    assert missing(recorder, [tmp_path], None) == ["found==1"]
    assert recorder.isolated == isolated
    recorder = Recorder(*failures)
    build(recorder, tmp_path, tmp_path / "target")
    assert recorder.isolated == isolated


def test_both_reasons_are_told_where_they_differ(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^no index; .*installed here: no gcc$"):
        missing(Recorder("no gcc", "no index"), [tmp_path], None)
    with pytest.raises(UsageError, match=r"^no gcc$"):
        missing(Recorder("no gcc", "no gcc"), [tmp_path], None)


def test_pip_installs_into_a_folder(wheel: MakeWheel, tmp_path: Path) -> None:
    wheel("dependency", "1.0")
    assert Pip().missing(["dependency"], None) == ["dependency==1.0"]
    Pip().install(["dependency==1.0"], tmp_path / "target")
    code = "import dependency; print(dependency.VERSION)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "target",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1.0\n"
    with pytest.raises(UsageError, match=r"No matching distribution found for dependency==2\.0"):
        Pip().install(["dependency==2.0"], tmp_path / "target")
