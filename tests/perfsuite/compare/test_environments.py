from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from perfsuite.compare.environments import declared, missing
from perfsuite.errors import UsageError

Write = Callable[[Path, Mapping[str, str]], None]

FILES = {
    "pyproject.toml": """
        [project]
        name = "x"
        version = "1"
        requires-python = ">=3.11"
        dependencies = ["rich"]
        [project.optional-dependencies]
        dev = ["ruff"]
        [tool.setuptools.dynamic]
        dependencies = { file = ["requirements/base.txt"] }
        [tool.ruff]
        line-length = 100
    """,
    "requirements/base.txt": "rich\n",
    "setup.py": "setup()",
    "constraints.txt": "rich==15.0.0\n",
}


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("pyproject.toml", "line-length = 100", "line-length = 120", True),
        ("pyproject.toml", 'dev = ["ruff"]', 'dev = ["ruff", "mypy"]', True),
        ("pyproject.toml", 'version = "1"', 'version = "2"', True),
        ("pyproject.toml", '= ["rich"]', '= ["rich>=1"]', False),
        ("pyproject.toml", ">=3.11", ">=3.12", False),
        ("requirements/base.txt", "rich", "rich>=1", False),
        ("setup.py", "setup()", "setup(1)", False),
        ("constraints.txt", "15", "14", False),
    ],
)
def test_only_what_declares_dependencies_makes_trees_differ(
    tmp_path: Path, write: Write, file: str, old: str, new: str, same: bool
) -> None:
    head, base = tmp_path / "head", tmp_path / "base"
    write(head, FILES)
    write(base, FILES)
    text = (base / file).read_text()
    assert old in text
    (base / file).write_text(text.replace(old, new))
    assert (declared(head, [Path()]) == declared(base, [Path()])) is same


def test_a_damaged_declaration_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project")
    with pytest.raises(UsageError, match=r"pyproject\.toml: cannot be read"):
        declared(tmp_path, [Path()])


class Installer:
    def __init__(self) -> None:
        self.asked: list[object] = []

    def missing(self, *asked: object, isolated: bool = True) -> list[str]:
        self.asked.append(asked)
        return ["found==1"]

    def install(self, wanted: object, target: object, *, isolated: bool = True) -> None:
        raise NotImplementedError


def test_projects_are_asked_about_with_the_trees_constraints(tmp_path: Path, write: Write) -> None:
    write(
        tmp_path,
        {**FILES, "part/setup.cfg": "[metadata]\nname = y\n", "none/setup.cfg": "[flake8]\n"},
    )
    installer = Installer()
    assert missing(tmp_path, [Path(), Path("part"), Path("none")], installer) == ["found==1"]
    wanted = [str(tmp_path), str(tmp_path / "part")]
    assert installer.asked == [(wanted, tmp_path / "constraints.txt")]


def test_without_a_project_its_requirements_file_counts(tmp_path: Path, write: Write) -> None:
    installer = Installer()
    assert missing(tmp_path, [], installer) == []
    write(tmp_path, {"requirements.txt": "rich\n"})
    assert declared(tmp_path, []) != declared(tmp_path / "other", [])
    assert missing(tmp_path, [], installer) == ["found==1"]
    assert installer.asked == [(["-r", str(tmp_path / "requirements.txt")], None)]
