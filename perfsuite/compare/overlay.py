"""One tree's benchmarks in another tree: the test files that were asked for, and what they need beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from perfsuite.compare.revisions import copy_or_remove, tracked, untracked
from perfsuite.locating import INI_FILES

_FOLDERS = frozenset({"tests", "test", "benchmarks", "bench"})


def overlay(source: Path, target: Path, files: Sequence[Path]) -> None:
    """Make the tree ``target`` hold the tests of the tree ``source``.

    What it takes over: ``files``; every ``conftest.py`` and ini file of pytest's from the root down to them; and of
    a file below a folder named ``tests``, ``test``, ``benchmarks`` or ``bench`` that whole folder. What git ignores
    stays behind, and what ``source`` does not have is removed.

    Args:
        source: The root of a git work tree.
        target: The root of another one, which is temporary.
        files: Test files, relative to either root.
    """
    folders = set(_test_folders(files))
    for folder in folders:
        shutil.rmtree(target / folder, ignore_errors=True)
        # What stands there is never a link to elsewhere: git has just checked it out.
        for name in [*tracked(source, folder), *untracked(source, folder)]:
            copy_or_remove(source / name, target / name)
    for file in dict.fromkeys(_single_files(files)):
        if not any(file.is_relative_to(folder) for folder in folders):
            copy_or_remove(source / file, target / file)


def _test_folders(files: Iterable[Path]) -> Iterator[Path]:
    """Return the topmost folder of tests that each of the files lies in, where it lies in one."""
    for file in files:
        above = [folder for folder in reversed(file.parents) if folder.name in _FOLDERS]
        if above:
            yield above[0]


def _single_files(files: Iterable[Path]) -> Iterator[Path]:
    for file in files:
        yield file
        for folder in file.parents:
            yield folder / "conftest.py"
            yield from (folder / name for name in INI_FILES)
