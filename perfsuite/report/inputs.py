"""The result files that a report is made from, each checked field by field when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perfsuite.fields import Field, read_json
from perfsuite.llama.results import PHASES, Interval, Latency


@dataclass(frozen=True)
class LadderStage:
    """A stage's row; seconds, bytes, and ratios as in ``perfsuite.llama.results.StageRow``."""

    name: str
    latency: Latency
    phases: Mapping[str, float]
    vs_baseline: float | None
    vs_baseline_interval: Interval | None
    vs_unsplit: float
    vs_unsplit_interval: Interval | None
    forecast: float | None
    rpc_count: int
    bytes_sent: int
    bytes_received: int
    payload_copies: int | None
    worker_sees: str
    kernels: str


@dataclass(frozen=True)
class Ladder:
    """What ``perfsuite ladder --json`` wrote."""

    model: str
    tokens: int
    device: str
    rounds: int | None
    confidence: float | None
    command: str
    machine: Mapping[str, str]
    unsplit: Mapping[str, Latency]
    stages: tuple[LadderStage, ...]


@dataclass(frozen=True)
class Subject:
    """One subject of the gate. ``change`` is current over stored, None where nothing was stored."""

    name: str
    verdict: str
    reason: str
    ratio: float | None
    latency_ms: float
    change: float | None
    interval: tuple[float, float] | None
    margin: float | None
    grew_most: str
    processes: int


@dataclass(frozen=True)
class GateReport:
    """What ``pytest perfsuite --perf-report`` wrote."""

    subjects: tuple[Subject, ...]
    command: str
    machine: Mapping[str, str]


def read_ladder(path: Path) -> Ladder:
    """Read a ladder. Raises UsageError naming the file and the field that cannot be used."""
    data = read_json(path)
    rounds, confidence = data.get("rounds"), data.get("confidence")
    return Ladder(
        model=data.need("model").text(),
        tokens=int(data.need("tokens").positive()),
        device=optional_text(data, "device"),
        rounds=int(rounds.positive()) if rounds else None,
        confidence=confidence.not_negative() if confidence else None,
        command=optional_text(data, "command"),
        machine=data.need("machine").words(),
        unsplit={
            dtype: _latency(row.need("latency_s"))
            for dtype, row in data.need("unsplit").mapping().items()
        },
        stages=tuple(_stage(row) for row in data.need("stages").items()),
    )


def read_gate(path: Path) -> GateReport:
    """Read a gate's report. Raises UsageError naming the file and the field that cannot be used."""
    data = read_json(path)
    machine = data.get("machine")
    return GateReport(
        subjects=tuple(_subject(row) for row in data.need("subjects").items()),
        command=optional_text(data, "command"),
        machine=machine.words() if machine else {},
    )


def optional_text(data: Field, name: str) -> str:
    """A text field, empty where it is missing."""
    found = data.get(name)
    return found.text() if found else ""


def _stage(row: Field) -> LadderStage:
    forecast, copies = row.get("forecast_speedup"), row.get("payload_copies")
    vs_baseline = row.get("vs_baseline")
    phases = row.need("phases_s")
    return LadderStage(
        name=row.need("name").text(),
        latency=_latency(row.need("latency_s")),
        phases={phase: phases.need(phase).not_negative() for phase in PHASES},
        vs_baseline=vs_baseline.positive() if vs_baseline else None,
        vs_baseline_interval=_interval(row.get("vs_baseline_interval")),
        vs_unsplit=row.need("vs_unsplit").positive(),
        vs_unsplit_interval=_interval(row.get("vs_unsplit_interval")),
        forecast=forecast.positive() if forecast else None,
        rpc_count=_count(row.need("rpc_count")),
        bytes_sent=_count(row.need("bytes_sent")),
        bytes_received=_count(row.need("bytes_received")),
        payload_copies=_count(copies) if copies else None,
        worker_sees=optional_text(row, "worker_sees"),
        kernels=optional_text(row, "kernels"),
    )


def _subject(row: Field) -> Subject:
    # A subject that others disturbed all the time has no ratio, which is written as NaN.
    ratio = row.get("ratio")
    change, interval, margin, grew, processes = (
        row.get(name) for name in ("change", "change_interval", "margin", "grew_most", "processes")
    )
    return Subject(
        name=row.need("name").text(),
        verdict=row.need("verdict").text(),
        reason=optional_text(row, "reason"),
        ratio=ratio.positive() if ratio else None,
        latency_ms=row.need("latency_ms").positive(),
        change=change.positive() if change else None,
        interval=interval.interval() if interval else None,
        margin=margin.not_negative() if margin else None,
        grew_most=grew.text() if grew else "",
        processes=_count(processes) if processes else 0,
    )


def _latency(field: Field) -> Latency:
    low, high = field.interval()
    return Latency(median=field.need("median").positive(), low=low, high=high)


def _interval(field: Field | None) -> Interval | None:
    if field is None:
        return None
    low, high = field.interval()
    return Interval(low=low, high=high)


def _count(field: Field) -> int:
    return int(field.not_negative())
