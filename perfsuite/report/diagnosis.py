"""What ``perfsuite diagnose --json`` wrote, as far as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import UsageError
from perfsuite.fields import Field, read_json
from perfsuite.llama.results import PHASES
from perfsuite.report.inputs import optional_text

# How a call is made: one after the other, or with memory walked through in between as in a forward.
HOW = ("back_to_back", "between_sweeps")


@dataclass(frozen=True)
class Curve:
    """Round trips over a road: payloads in bytes, the smallest first, and the seconds of each."""

    road: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Predicted:
    """A stage as the cost model predicts it and as it was measured; ``error`` is relative and signed."""

    stage: str
    predicted_s: float
    measured_s: float
    error: float


@dataclass(frozen=True)
class Projected:
    """A stage as the cost model projects it, with its seconds by phase and what bounds it."""

    stage: str
    projected_s: float
    phases: Mapping[str, float]
    rpc_count: int
    bound: str


@dataclass(frozen=True)
class Projection:
    """What was assumed, in words; whose published figures, and where from, if a device was; what follows."""

    assumed: tuple[str, ...]
    title: str
    source: str
    stages: tuple[Projected, ...]


@dataclass(frozen=True)
class Diagnosis:
    """The transports' curves, by how they were measured; the cost model's predictions, and what it projects."""

    curves: Mapping[str, tuple[Curve, ...]]
    predictions: tuple[Predicted, ...]
    projection: Projection | None
    command: str
    machine: Mapping[str, str]


def read_diagnosis(path: Path) -> Diagnosis:
    """Read a diagnosis. Raises UsageError naming the file and the field that cannot be used."""
    data = read_json(path)
    transport, machine, projection = (
        data.get(name) for name in ("transport", "machine", "projection")
    )
    return Diagnosis(
        curves={how: _curves(transport, how) for how in HOW} if transport else {},
        predictions=tuple(_predicted(row) for row in data.need("prediction").items()),
        projection=_projection(projection) if projection else None,
        command=optional_text(data, "command"),
        machine=machine.words() if machine else {},
    )


def _curves(transport: Field, how: str) -> tuple[Curve, ...]:
    measured = [(road, item.get(how)) for road, item in transport.mapping().items()]
    return tuple(_curve(road, item.need("sent")) for road, item in measured if item is not None)


def _curve(road: str, sent: Field) -> Curve:
    sizes = [item.positive() for item in sent.need("bytes").items()]
    seconds = [item.positive() for item in sent.need("round_trip_s").items()]
    if len(sizes) != len(seconds):
        raise UsageError(f"{sent.place}: {len(sizes)} bytes, {len(seconds)} round_trip_s")
    return Curve(road, tuple(sorted(zip(sizes, seconds, strict=True))))


def _predicted(row: Field) -> Predicted:
    return Predicted(
        stage=row.need("stage").text(),
        predicted_s=row.need("predicted_s").positive(),
        measured_s=row.need("measured_s").positive(),
        error=row.need("error").number(),
    )


def _projection(field: Field) -> Projection:
    return Projection(
        assumed=tuple(item.text() for item in field.need("assumed").items()),
        title=optional_text(field, "title"),
        source=optional_text(field, "source"),
        stages=tuple(_projected(row) for row in field.need("stages").items()),
    )


def _projected(row: Field) -> Projected:
    phases = row.need("phases_s")
    return Projected(
        stage=row.need("name").text(),
        projected_s=row.need("projected_s").positive(),
        phases={phase: phases.need(phase).not_negative() for phase in PHASES},
        rpc_count=int(row.need("rpc_count").not_negative()),
        bound=row.need("bound").text(),
    )
