"""What ``perfsuite diagnose --json`` wrote, as far as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perfsuite.fields import Field, read_json
from perfsuite.report.inputs import optional_text


@dataclass(frozen=True)
class RoundTrip:
    """``size`` bytes there and back."""

    size: float
    seconds: float


@dataclass(frozen=True)
class Road:
    """A transport, measured over a range of sizes, the smallest first."""

    name: str
    trips: tuple[RoundTrip, ...]


@dataclass(frozen=True)
class Predicted:
    """A stage as the cost model predicts it and as it was measured; ``error`` is relative and signed."""

    stage: str
    predicted_s: float
    measured_s: float
    error: float


@dataclass(frozen=True)
class Diagnosis:
    """The transports' curves and the cost model's predictions."""

    roads: tuple[Road, ...]
    predictions: tuple[Predicted, ...]
    command: str
    machine: Mapping[str, str]


def read_diagnosis(path: Path) -> Diagnosis:
    """Read a diagnosis. Raises UsageError naming the file and the field that cannot be used."""
    data = read_json(path)
    transport, machine = data.get("transport"), data.get("machine")
    return Diagnosis(
        roads=tuple(_road(item) for item in transport.items()) if transport else (),
        predictions=tuple(_predicted(row) for row in data.need("prediction").items()),
        command=optional_text(data, "command") or "perfsuite diagnose --json F",
        machine=machine.words() if machine else {},
    )


def _road(item: Field) -> Road:
    trips = [
        RoundTrip(trip.need("bytes").positive(), trip.need("seconds").positive())
        for trip in item.need("points").items()
    ]
    return Road(item.need("name").text(), tuple(sorted(trips, key=lambda trip: trip.size)))


def _predicted(row: Field) -> Predicted:
    return Predicted(
        stage=row.need("stage").text(),
        predicted_s=row.need("predicted_s").positive(),
        measured_s=row.need("measured_s").positive(),
        error=row.need("error").number(),
    )
