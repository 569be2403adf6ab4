"""What ``perfsuite diagnose --json`` wrote, as far as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict

from perfsuite.llama.results import Phases
from perfsuite.schema import Count, Finite, Positive, read, words

# How a call is made: one after the other, or with memory walked through in between as in a forward.
HOW = ("back_to_back", "between_sweeps")


@dataclass(frozen=True)
class Curve:
    """Round trips over a road: payloads in bytes, the smallest first, and the seconds of each."""

    road: str
    points: tuple[tuple[float, float], ...]


class _Sent(Struct, frozen=True):
    sizes: tuple[Positive, ...] = field(name="bytes")
    seconds: tuple[Positive, ...] = field(name="round_trip_s")

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.seconds):
            raise ValueError(f"{len(self.sizes)} bytes, {len(self.seconds)} round_trip_s")

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Sizes and seconds, the smallest first."""
        return tuple(sorted(zip(self.sizes, self.seconds, strict=True)))


class _Sweep(Struct, frozen=True):
    sent: _Sent


class _Road(Struct, frozen=True):
    """Its sweeps, by how they were made."""

    back_to_back: _Sweep | None = None
    between_sweeps: _Sweep | None = None


class Predicted(Struct, frozen=True):
    """A stage as the cost model predicts it and as it was measured; ``error`` is relative and signed."""

    stage: str
    predicted_s: Positive
    measured_s: Positive
    error: Finite


class Projected(Struct, frozen=True, kw_only=True):
    """A stage as the cost model projects it, with its seconds by phase and what bounds it."""

    stage: str = field(name="name")
    projected_s: Positive
    told: Phases = field(name="phases_s")
    rpc_count: Count
    bound: str

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds by phase."""
        return asdict(self.told)


class Projection(Struct, frozen=True, kw_only=True):
    """What was assumed, in words; whose published figures, and where from, if a device was; what follows."""

    assumed: tuple[str, ...]
    stages: tuple[Projected, ...]
    title: str | None = None
    source: str | None = None


class Diagnosis(Struct, frozen=True, kw_only=True):
    """The transports' curves, by how they were measured, the cost model's predictions, and what it projects."""

    roads: dict[str, _Road | None] | None = field(default=None, name="transport")
    predictions: tuple[Predicted, ...] = field(name="prediction")
    projection: Projection | None = None
    command: str = ""
    fingerprint: dict[str, Any] | None = field(default=None, name="machine")

    @property
    def curves(self) -> Mapping[str, tuple[Curve, ...]]:
        """The roads' curves by how they were measured; none where no transport was diagnosed."""
        if self.roads is None:
            return {}
        return {how: tuple(self._curves(self.roads, how)) for how in HOW}

    @property
    def machine(self) -> Mapping[str, str]:
        """What is known of the machine, for showing."""
        return words(self.fingerprint or {})

    @staticmethod
    def _curves(roads: Mapping[str, _Road | None], how: str) -> list[Curve]:
        sweeps = {name: getattr(road, how) for name, road in roads.items() if road is not None}
        return [Curve(name, one.sent.points) for name, one in sweeps.items() if one is not None]


def read_diagnosis(path: Path) -> Diagnosis:
    """Read a diagnosis. Raises UsageError naming the file and the field that cannot be used."""
    return read(path, Diagnosis)
