"""What ``perfsuite diagnose --json`` wrote, as far as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import UsageError
from perfsuite.fields import Field, read_json
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
class Diagnosis:
    """The transports' curves, by how they were measured, and the cost model's predictions."""

    curves: Mapping[str, tuple[Curve, ...]]
    predictions: tuple[Predicted, ...]
    command: str
    machine: Mapping[str, str]


def read_diagnosis(path: Path) -> Diagnosis:
    """Read a diagnosis. Raises UsageError naming the file and the field that cannot be used."""
    data = read_json(path)
    transport, machine = data.get("transport"), data.get("machine")
    return Diagnosis(
        curves={how: _curves(transport, how) for how in HOW} if transport else {},
        predictions=tuple(_predicted(row) for row in data.need("prediction").items()),
        command=optional_text(data, "command") or "perfsuite diagnose --json F",
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
