"""The gate's report, as a page is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from perfsuite.gate.reported import Subject
from perfsuite.schema import read


class GateReport(Struct, frozen=True, kw_only=True):
    """What ``pytest --perf-report`` wrote."""

    subjects: tuple[Subject, ...]
    command: str = ""
    machine: dict[str, Any] | None = None


def read_gate(path: Path) -> GateReport:
    """Read a gate's report. Raises UsageError naming the file and the field that cannot be used."""
    return read(path, GateReport)
