"""Tests stand where what they test stands, under its name: ``runtime/rope.py`` and ``tests/runtime/test_rope.py``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

UNTESTED: Mapping[str, str] = {}
"""Modules without a test file of their name, each with the reason; CONTRIBUTING.md names them too."""

OF_NO_MODULE: Mapping[str, str] = {
    "test_example.py": "the gate as an outsider has it: installed, by the steps of action.yml",
    "test_mirror.py": "this",
    "test_workflows.py": "the workflows of CI and the action",
    "perfsuite/test_command_help.py": "the help and completion of every command",
    "perfsuite/test_command_line.py": "what all commands do alike with errors and signals",
    "perfsuite/test_standalone.py": "the distribution: what its wheel holds, and what it imports",
    "perfsuite/test_budgets.py": "perfsuite/test_budgets.py, itself a test, turning red",
    "perfsuite/report/test_browser.py": "the page in a real browser",
    "perfsuite/report/test_golden.py": "the page's structure, held against stored files",
    "runtime/fuzz/test_fuzz.py": "seed corpora, and blind changes of them",
    "runtime/test_conversations.py": "whole conversations in any order",
    "runtime/test_restart.py": "a worker that has ended is replaced",
    "runtime/test_seeds.py": "one seed, the same tokens at every stage of one dtype",
    "runtime/test_extending.py": "docs/extending.md, done",
    "runtime/test_lifecycle.py": "both processes and all that they could leave behind",
    "runtime/transports/test_two_hosts.py": "a worker on another host: two network namespaces and a bad link",
    "runtime/devices/test_open_device.py": "runtime/devices/__init__.py",
}
"""Test files that bear no module's name, and what they are of."""


def modules() -> Iterator[str]:
    """The modules that want a test file; packages' own files and programs are tested as what they start."""
    for tree in ("runtime", "perfsuite"):
        for file in sorted((ROOT / tree).rglob("*.py")):
            if file.stem not in ("__init__", "__main__") and not file.stem.startswith("test_"):
                yield file.relative_to(ROOT).as_posix()


def test_file(module: str) -> Path:
    path = Path(module)
    return TESTS / path.parent / f"test_{path.name}"


test_file.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", sorted(set(modules()) - set(UNTESTED)))
def test_every_module_has_a_test_file_of_its_name(module: str) -> None:
    file = test_file(module)
    assert file.is_file(), f"{module} has no {file.relative_to(ROOT)}"
    text = file.read_text()
    assert re.search(r"^ *(async )?def test_|\.TestCase$", text, re.MULTILINE), f"{file}: no test"


def test_exceptions_are_modules_without_a_test_file_and_are_named_for_contributors() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for module, reason in UNTESTED.items():
        assert (ROOT / module).is_file(), f"{module}: is no module any more"
        assert not test_file(module).exists(), f"{module}: has a test file now"
        assert reason
        assert module in contributing


def test_every_other_test_file_is_named_with_what_it_is_of() -> None:
    named = {test_file(module) for module in modules()}
    found = {file for file in TESTS.rglob("test_*.py") if "golden" not in file.parts}
    others = {file.relative_to(TESTS).as_posix() for file in found - named}
    assert others == set(OF_NO_MODULE)
