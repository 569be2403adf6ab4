from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from perfsuite.compare.overlay import overlay
from perfsuite.compare.revisions import resolve, worktree

MakeRepository = Callable[..., Path]
Write = Callable[[Path, Mapping[str, str]], None]

OLD = {
    ".gitignore": "*.log\n",
    "conftest.py": "old",
    "pyproject.toml": "old",
    "package/__init__.py": "old",
    "package/test_inside.py": "old",
    "package/helper.py": "old",
    "part/conftest.py": "old",
    "part/tests/unit/test_it.py": "old",
    "part/tests/gone.py": "old",
    "part/code.py": "old",
}
NEW = {name: "new" for name in OLD if name not in (".gitignore", "part/tests/gone.py")}


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".git", ".gitignore")
    }


@pytest.mark.parametrize(
    ("file", "taken"),
    [
        # below a folder of tests: all of it, and what configures it
        (
            "part/tests/unit/test_it.py",
            "part/tests/unit/test_it.py part/tests/new part/conftest.py conftest.py pyproject.toml",
        ),
        ("package/test_inside.py", "package/test_inside.py conftest.py pyproject.toml"),
    ],
)
def test_tests_and_what_they_need_are_taken_over(
    repository: MakeRepository, write: Write, file: str, taken: str
) -> None:
    root = repository(OLD)
    (root / "part" / "tests" / "gone.py").unlink()
    write(root, {**NEW, "part/tests/new": "new", "part/tests/x.log": "ignored"})
    with worktree(root, resolve(root, "HEAD")) as folder:
        overlay(root, folder, [Path(file)])
        found = content(folder)
    assert {name for name, text in found.items() if text == "new"} == set(taken.split())
    assert ("part/tests/gone.py" in found) is ("part/tests" not in file)
    assert "part/tests/x.log" not in found


def test_what_the_source_does_not_have_is_removed(repository: MakeRepository, write: Write) -> None:
    root = repository(OLD)
    for name in ("conftest.py", "package/test_inside.py"):
        (root / name).unlink()
    write(root, {"pytest.ini": "new"})
    with worktree(root, resolve(root, "HEAD")) as folder:
        overlay(root, folder, [Path("package/test_inside.py")])
        found = content(folder)
    assert found["pytest.ini"] == "new"
    assert not {"conftest.py", "package/test_inside.py"} & set(found)
    assert found["package/helper.py"] == "old"
