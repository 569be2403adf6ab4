"""From where code is imported that lies in a repository: what is its, and what only stands beside it.

Whole installations, and processes that import from them, are in ``test_trees.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from perfsuite.compare.imports import (
    Survey,
    environment,
    installed_modules,
    locate,
    packages,
    survey,
)
from perfsuite.errors import UsageError

Git = Callable[..., str]
MakeRepository = Callable[..., Path]
Write = Callable[[Path, Mapping[str, str]], None]


def test_a_side_s_folders_come_before_what_the_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    assert environment([Path("/a"), Path("/b")])["PYTHONPATH"] == os.pathsep.join(
        ["/a", "/b", "/theirs"]
    )
    assert environment([])["PYTHONPATH"] == "/theirs"
    monkeypatch.delenv("PYTHONPATH")
    assert "PYTHONPATH" not in environment([])
    assert environment([Path("/a")])["PYTHONPATH"] == "/a"


def test_what_was_installed_into_a_folder_is_known_by_its_topmost_packages(
    tmp_path: Path, write: Write
) -> None:
    write(
        tmp_path,
        {
            "package/__init__.py": "",
            "package/inner/__init__.py": "",
            "module.py": "",
            f"built{EXTENSION_SUFFIXES[0]}": "",
            "space/part/__init__.py": "",
            "space/part/more.py": "",
            "package-1.dist-info/METADATA": "",
            "data/file.txt": "",
            "tests/__init__.py": "",
            "json.py": "",
            "no-name.py": "",
        },
    )
    assert sorted(installed_modules(tmp_path)) == ["built", "module", "package", "space.part"]


def test_a_package_is_found_in_the_first_of_the_roots_that_has_it(
    tmp_path: Path, write: Write
) -> None:
    write(tmp_path, {"src/a/__init__.py": "", "a/__init__.py": "", "b.py": "", "odd/c.py": ""})
    found = packages(
        tmp_path, [Path("src"), Path()], {"c": Path("odd/c.py"), "gone": Path("x.py")}, "abc"
    )
    assert found == {"a": Path("src/a"), "b": Path("b.py"), "c": Path("odd/c.py")}
    assert packages(tmp_path, [Path()], {"gone": Path("x.py")}, ["gone", "d"]) == {}


def surveyed(root: Path, *path: str) -> Survey:
    return survey(root, root, [root / "tests" / "test_it.py"], [str(root / one) for one in path])


@pytest.mark.parametrize(
    ("files", "path", "names"),
    [
        ({"src/package/__init__.py": ""}, ["src"], ["package"]),
        ({"package/__init__.py": "", "setup.py": "", "docs/__init__.py": ""}, [""], ["package"]),
        ({"one.py": "", "two.py": "", "conftest.py": ""}, [""], ["one", "two"]),
        ({"tools/script.py": ""}, [""], []),
        ({"package/__init__.py": ""}, [], []),
    ],
    ids=["src", "flat", "modules", "scripts", "not on the path"],
)
def test_the_repository_s_modules_are_those_with_code_on_the_path(
    repository: MakeRepository,
    environment: Path,
    files: Mapping[str, str],
    path: list[str],
    names: list[str],
) -> None:
    root = repository({**files, "tests/test_it.py": ""})
    found = surveyed(root, *path)
    assert sorted(found.names) == names
    assert [str(one) for one in found.roots] == [str(Path(one)) for one in path]
    assert (found.copied, found.compiled, found.leaks) == ((), (), False)


def test_what_git_does_not_track_is_no_part_of_it(
    repository: MakeRepository, environment: Path, write: Write
) -> None:
    root = repository({"package.py": "", "tests/test_it.py": "", ".gitignore": "made.py\n"})
    write(root, {"made.py": ""})
    assert surveyed(root, "").names == ("package",)


def test_modules_are_located_by_the_interpreter_that_is_asked(tmp_path: Path, write: Write) -> None:
    write(tmp_path, {"side/package/__init__.py": "", "elsewhere/package/__init__.py": ""})
    found = locate(
        Path(sys.executable), ["package", "nowhere_at_all"], [tmp_path / "side"], tmp_path
    )
    assert found == {
        "package": tmp_path / "side" / "package" / "__init__.py",
        "nowhere_at_all": None,
    }


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_an_interpreter_that_does_not_answer_is_told(program: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{program}: cannot be asked what it imports"):
        locate(Path(program), ["package"], [], tmp_path)
