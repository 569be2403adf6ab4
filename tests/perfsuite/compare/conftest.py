from __future__ import annotations

import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Git = Callable[..., str]
MakeRepository = Callable[..., Path]
MakeWheel = Callable[[str, str], Path]
Write = Callable[[Path, Mapping[str, str]], None]


@pytest.fixture(scope="session")
def git() -> Git:
    """Git in a folder, as somebody with a name."""

    def run(folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return run


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, so that a test can see what is left of them."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.fixture
def repository(tmp_path: Path, git: Git, write: Write) -> MakeRepository:
    """Makes a repository of commits: each a mapping of files to their texts, which it changes."""

    def make(*commits: Mapping[str, str]) -> Path:
        root = (tmp_path / "repository").resolve()
        root.mkdir()
        git(root, "init", "--quiet", "--initial-branch=main")
        for number, files in enumerate(commits):
            write(root, files)
            git(root, "add", ".")
            git(root, "commit", "--quiet", "--allow-empty", "-m", f"commit {number}")
        return root

    return make


@pytest.fixture(scope="session")
def write() -> Write:
    """Writes files into a folder, their texts without the indentation that they have in a test."""

    def write(root: Path, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    return write


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed packages of the running environment: a new one, above the tests' own.

    Of the latter, code in ``.pth`` files is not run, so that nothing leads to this repository.
    """
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "zz_beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return packages


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWheel:
    """Makes wheels of the package ``name`` whose VERSION is ``version``, which pip then finds, and no others."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def make(name: str, version: str) -> Path:
        path = folder / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": f"VERSION = '{version}'\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
        with zipfile.ZipFile(path, "w") as archive:
            for file, text in {**files, f"{info}/RECORD": record}.items():
                archive.writestr(file, text)
        return path

    return make
