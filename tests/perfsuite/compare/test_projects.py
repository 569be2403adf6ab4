from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from perfsuite.compare.projects import find_projects, installable, project_name
from perfsuite.errors import UsageError

Write = Callable[[Path, Mapping[str, str]], None]


@pytest.mark.parametrize(
    ("files", "name", "can_be"),
    [
        ({}, None, False),
        ({"pyproject.toml": "[tool.pytest.ini_options]\n"}, None, False),
        ({"pyproject.toml": '[project]\nname = "A.b_C"\n'}, "a-b-c", True),
        ({"pyproject.toml": '[tool.poetry]\nname = "x"\n'}, "x", True),
        ({"pyproject.toml": "[build-system]\nrequires = []\n"}, None, True),
        ({"pyproject.toml": "project = 1\ntool = 2\n"}, None, True),
        ({"setup.cfg": "[metadata]\nname = x\n"}, "x", True),
        ({"setup.cfg": "[flake8]\n"}, None, False),
        ({"setup.py": "setup()\n"}, None, True),
    ],
)
def test_a_project_is_known_by_its_files(
    tmp_path: Path, write: Write, files: Mapping[str, str], name: str | None, can_be: bool
) -> None:
    write(tmp_path, files)
    assert project_name(tmp_path) == name
    assert installable(tmp_path) is can_be


@pytest.mark.parametrize("file", ["pyproject.toml", "setup.cfg"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("[x\n")
    with pytest.raises(UsageError, match=f"{file}: cannot be read"):
        installable(tmp_path)


def test_projects_are_found_upwards(tmp_path: Path, write: Write) -> None:
    project = {"pyproject.toml": "[project]\n"}
    for folder in (".", "parts/one", "parts/two"):
        write(tmp_path / folder, project)
    starts = [tmp_path, tmp_path / "parts" / "one" / "tests" / "test_it.py"]
    assert find_projects(tmp_path, starts) == [Path(), Path("parts/one")]
    assert find_projects(tmp_path / "parts", starts) == [Path("one")]
