from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from perfsuite.compare.environments import build, declared
from perfsuite.errors import UsageError


def tree(folder: Path, dependencies: str, constraints: str = "", python: str = ">=3.11") -> Path:
    folder.mkdir()
    text = f'[project]\nrequires-python = "{python}"\ndependencies = [{dependencies}]\n'
    (folder / "pyproject.toml").write_text(text)
    if constraints:
        (folder / "constraints.txt").write_text(constraints)
    return folder


@pytest.mark.parametrize(
    ("base", "same"),
    [
        (('"rich"', "rich==15.0.0\nruff==0.17.6"), True),
        (("'rich'", "rich == 15.0.0\nRuff==0.1  # a linter"), True),
        (('"rich"', "rich==14.0.0\nruff==0.17.6"), False),
        (('"rich>=1"', "rich==15.0.0\nruff==0.17.6"), False),
        (('"rich", "numpy"', "rich==15.0.0\nruff==0.17.6"), False),
        # rich brings it
        (('"rich"', "rich==15.0.0\nruff==0.17.6\nPygments==1.0"), False),
        (('"rich"',), False),
    ],
)
def test_only_what_the_dependencies_bring_makes_trees_differ(
    tmp_path: Path, base: tuple[str, ...], same: bool
) -> None:
    head = declared(tree(tmp_path / "head", '"rich"', "rich==15.0.0\nruff==0.17.6"))
    assert declared(tree(tmp_path / "base", *base)).same_as(head) is same


@pytest.mark.parametrize(
    ("base", "satisfied"),
    [
        (('"rich"',), True),
        (('"rich>=1"', f"rich=={version('rich')}"), True),
        (('"rich>=1"', "rich==1.0"), False),
        (('"rich<2"',), False),
        (('"rich"', "Pygments==1.0"), False),
        (('"rich"', "ruff==0.0.1"), True),
        (('"no-such-package"',), False),
        (("\"no-such-package; python_version < '3'\"",), True),
    ],
)
def test_what_is_installed_may_be_what_is_declared(
    tmp_path: Path, base: tuple[str, ...], satisfied: bool
) -> None:
    assert declared(tree(tmp_path / "base", *base)).satisfied() is satisfied


def test_this_project_is_the_same_as_itself() -> None:
    root = Path(__file__).parents[3]
    assert declared(root).same_as(declared(root))
    assert "torch" in declared(root).pins
    assert declared(root).satisfied()


@pytest.mark.parametrize("text", ["", "[project", "[project]\ndependencies = ['a b c']"])
def test_a_damaged_declaration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=r"pyproject\.toml"):
        declared(tmp_path)


def test_a_missing_declaration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pyproject\.toml"):
        declared(tmp_path)


def test_another_python_is_refused(tmp_path: Path) -> None:
    base = tree(tmp_path / "base", "", python=">=4")
    with pytest.raises(UsageError, match=">=4"):
        build(base, tmp_path / "environment")


def test_an_environment_is_laid_over_this_one(tmp_path: Path) -> None:
    base = tree(tmp_path / "base", '"packaging"')
    python = build(base, tmp_path / "environment")
    code = "import sys, packaging, torch; print(sys.prefix, packaging.__file__)"
    prefix, file = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert prefix == str(tmp_path / "environment")
    assert prefix != sys.prefix
    assert not file.startswith(prefix)  # this one has it, so nothing was installed


def test_what_cannot_be_installed_is_told(tmp_path: Path) -> None:
    base = tree(tmp_path / "base", '"no-such-package @ file:///no/such/file.whl"')
    with pytest.raises(UsageError, match="cannot be installed"):
        build(base, tmp_path / "environment")
