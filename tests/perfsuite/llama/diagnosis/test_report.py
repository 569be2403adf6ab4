"""What a diagnosis shows, from a stored one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfsuite.llama.diagnosis.report import diagnosis_blocks
from perfsuite.llama.diagnosis.result import Diagnosis, read_diagnosis
from perfsuite.schema import decode
from tests.perfsuite.conftest import shown

Golden = Callable[[str, str], None]

STORED = Path(__file__).parent / "golden" / "diagnosis.json"


@pytest.fixture
def content() -> dict[str, Any]:
    """A run of the command on a small model, as ``--json`` wrote it, shortened."""
    found: dict[str, Any] = json.loads(STORED.read_text())
    return found


def drawn(content: dict[str, Any]) -> str:
    return shown(diagnosis_blocks(decode(content, Diagnosis, "diagnosis.json")))


def test_what_is_written_is_what_is_read(golden: Golden) -> None:
    golden("diagnosis.json", json.dumps(read_diagnosis(STORED).as_json(), indent=1) + "\n")


def test_the_text_is_the_stored_one(content: dict[str, Any], golden: Golden) -> None:
    golden("diagnosis.txt", drawn(content))


def test_without_assumptions_and_other_processes_less_is_said(
    content: dict[str, Any], golden: Golden
) -> None:
    content.update(projection=None, disturbed_runs={}, ties=[], ranking_right=False)
    for row in content["prediction"]:
        row["moved"] = None
    golden("diagnosis-plain.txt", drawn(content))
