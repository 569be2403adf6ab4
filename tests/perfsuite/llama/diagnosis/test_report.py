"""What a diagnosis shows, from a stored one."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from perfsuite.llama.diagnosis.report import print_diagnosis

Golden = Callable[[str, str], None]


@pytest.fixture
def diagnosis() -> Any:
    """A run of the command on a small model, as ``--json`` wrote it, shortened."""
    return json.loads((Path(__file__).parent / "golden" / "diagnosis.json").read_text())


def shown(result: Any) -> str:
    console = Console(file=StringIO(), markup=False, emoji=False, highlight=False)
    print_diagnosis(result, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_text_is_the_stored_one(diagnosis: Any, golden: Golden) -> None:
    golden("diagnosis.txt", shown(diagnosis))


def test_without_assumptions_and_other_processes_less_is_said(
    diagnosis: Any, golden: Golden
) -> None:
    diagnosis.update(projection=None, disturbed_runs={}, ties=[], ranking_right=False)
    for row in diagnosis["prediction"]:
        row["moved"] = None
    golden("diagnosis-plain.txt", shown(diagnosis))
