from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfsuite.calibration.runs import Kind
from perfsuite.gate.reported import Subject
from perfsuite.schema import decode

Store = Callable[..., None]


def subject(name: str = "mine", verdict: str = "pass", **fields: Any) -> dict[str, Any]:
    """One benchmark's outcome, as a report holds it."""
    return {
        "name": name,
        "verdict": verdict,
        "ratio": 2.0,
        "change": 1.0,
        "phases": {},
        "grew_most": None,
        **fields,
    }


def read(name: str = "mine", verdict: str = "pass", **fields: Any) -> Subject:
    """The same, as it is read."""
    return decode(subject(name, verdict, **fields), Subject, "report.json")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return what writes a report of a run into the folder ``tmp_path``."""

    def stored(kind: Kind, number: int, *subjects: dict[str, Any]) -> None:
        report = tmp_path / f"{kind.name}-{number:03}.json"
        report.write_text(json.dumps({"subjects": subjects}))

    return stored
