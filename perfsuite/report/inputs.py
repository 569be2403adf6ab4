"""The result files that a report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from perfsuite.llama.results import Ladder, LadderStage, read_ladder
from perfsuite.schema import Count, Finite, NotNegative, Positive, check_ends, read, words

__all__ = ["GateReport", "Ladder", "LadderStage", "Subject", "read_gate", "read_ladder"]


class Subject(Struct, frozen=True, kw_only=True):
    """One subject of the gate. ``change`` is current over stored, None where nothing was stored."""

    name: str
    verdict: str
    reason: str = ""
    ratio: Positive | None = None
    latency_s: Positive | None = None
    older_latency_ms: Positive | None = field(default=None, name="latency_ms")
    change: Positive | None = None
    interval: tuple[Finite, Finite] | None = field(default=None, name="change_interval")
    margin: NotNegative | None = None
    grew_most: str | None = None
    processes: Count = 0

    def __post_init__(self) -> None:
        if self.interval is not None:
            check_ends("change_interval", *self.interval)

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds of a call; None where it was not measured."""
        return self.older_latency_ms if self.latency_s is None else self.latency_s * 1e3


class GateReport(Struct, frozen=True, kw_only=True):
    """What ``pytest perfsuite --perf-report`` wrote."""

    subjects: tuple[Subject, ...]
    command: str = ""
    fingerprint: dict[str, Any] | None = field(default=None, name="machine")

    @property
    def machine(self) -> Mapping[str, str]:
        """What is known of the machine, for showing."""
        return words(self.fingerprint or {})


def read_gate(path: Path) -> GateReport:
    """Read a gate's report. Raises UsageError naming the file and the field that cannot be used."""
    return read(path, GateReport)
