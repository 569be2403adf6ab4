"""One tree of errors, whose root the command line catches."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import perfsuite
from perfsuite import errors
from perfsuite.__main__ import main
from perfsuite.errors import PerfsuiteError

FOLDER = Path(perfsuite.__file__).parent
# Caught where they are used: between both ends of a socket; by whoever decodes; by a script that is run alone.
INTERNAL = {"Ended", "Late", "FieldError", "InputError"}


def defined() -> dict[str, str]:
    """The names of all errors that perfsuite defines, and of what each is derived from."""
    found = {}
    for file in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and node.bases:
                base = ast.unparse(node.bases[0])
                if base.endswith(("Error", "Exception")) and not node.name.startswith("_"):
                    found[node.name] = base
    return found


def test_every_error_belongs_to_the_tree() -> None:
    found = defined()
    assert found.keys() >= INTERNAL
    for name in found.keys() - INTERNAL - {"PerfsuiteError"}:
        base = found[name]
        while base in found and base != "PerfsuiteError":
            base = found[base]
        assert base == "PerfsuiteError", f"{name} is derived from {base}"


def test_the_tree_is_documented() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type):
            assert issubclass(kind, PerfsuiteError)
            assert kind.__doc__


def test_the_command_line_says_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
