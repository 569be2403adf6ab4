"""A script that says what an interpreter imports from, and imports nothing of that itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perfsuite.compare import probe

SCRIPT = Path(probe.__file__)


def asked(
    request: dict[str, Any], *options: str, folder: Path | None = None, path: str = ""
) -> Any:
    done = subprocess.run(
        [sys.executable, *options, str(SCRIPT), json.dumps(request)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={"PYTHONPATH": path},
        timeout=60,
    )
    return json.loads(done.stdout)


def test_it_needs_nothing_but_the_standard_library() -> None:
    """In the environment that is asked about, this package may not be."""
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_a_module_is_found_where_it_would_come_from_and_not_run(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('was imported')")
    (tmp_path / "module.py").write_text("raise SystemExit('was imported')")
    (tmp_path / "space" / "inner").mkdir(parents=True)
    (tmp_path / "space" / "inner" / "__init__.py").touch()
    names = [
        "package",
        "module",
        "space.inner",
        "space",
        "json",
        "nowhere",
        "nowhere.at.all",
        "a..b",
    ]
    found = asked({"locate": names}, "-P", "-S", path=str(tmp_path))
    assert found["package"] == str(package / "__init__.py")
    assert found["module"] == str(tmp_path / "module.py")
    assert found["space.inner"] == str(tmp_path / "space" / "inner" / "__init__.py")
    assert found["space"] == str(tmp_path / "space")
    assert found["json"].endswith("json/__init__.py")
    assert [found[name] for name in names[-3:]] == [None] * 3


def test_the_folder_that_it_lies_in_is_no_place_to_import_from() -> None:
    found = asked({"survey": []}, "-P")
    assert str(SCRIPT.parent) not in found["path"]
    assert found["prefix"] == sys.prefix
    assert any(site in found["path"] for site in found["sites"])


@pytest.mark.parametrize(
    ("name", "url", "told"),
    [
        ("A.package", None, True),  # asked for, by any spelling of its name
        ("other", "file:///somewhere", True),  # installed from a folder
        ("other", "https://example.org/other.whl", False),
        ("other", None, False),
        ("other", "{damaged", False),
    ],
)
def test_of_what_is_installed_it_tells_what_may_be_the_repository_s(
    tmp_path: Path, name: str, url: str | None, told: bool
) -> None:
    info = tmp_path / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "RECORD").write_text("code.py,,\n")
    if url is not None:
        text = json.dumps({"url": url, "dir_info": {"editable": True}})
        (info / "direct_url.json").write_text(url if url.startswith("{") else text)
    found = asked({"survey": ["a-package"]}, "-P", "-S", path=str(tmp_path))["distributions"]
    assert [one["name"] for one in found] == ([name.replace(".", "-").lower()] if told else [])
    if told:
        assert found[0]["editable"] is (url is not None)
        assert found[0]["files"] == [str(tmp_path / "code.py")]
