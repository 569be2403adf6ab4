"""The diagnosis' result: the schema of its JSON, which whatever shows a diagnosis reads.

Times are in seconds, sizes in bytes, rates per second. What an older file lacks has a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct, field, to_builtins

from perfsuite.llama.results import Phases, check_phases
from perfsuite.schema import Count, Finite, Interval, Positive, read

NAIVE_BYTES = 10 * 1024 * 1024
"""The single transfer of the analysis."""

# The caches when a call is made: as the call before left them, or after a walk through memory, as in a forward.
HOW = ("hot", "cold")


Size: TypeAlias = Annotated[int, Meta(ge=1)] | Positive


class Curve(Struct, frozen=True, kw_only=True):
    """Seconds of a call, as a whole and by phase, by the payload that it carries one way."""

    bytes: tuple[Size, ...]
    serialize_s: tuple[Finite, ...] = ()
    transport_s: tuple[Finite, ...] = ()
    deserialize_s: tuple[Finite, ...] = ()
    trusted_s: tuple[Finite, ...] = ()
    round_trip_s: tuple[Positive, ...]

    def __post_init__(self) -> None:
        if len(self.bytes) != len(self.round_trip_s):
            raise ValueError(f"{len(self.bytes)} bytes, {len(self.round_trip_s)} round_trip_s")

    @property
    def points(self) -> list[tuple[float, float]]:
        """Sizes and seconds, the smallest first."""
        return sorted(zip(self.bytes, self.round_trip_s, strict=True))


class Sweep(Struct, frozen=True):
    """Calls that send, and calls that receive."""

    sent: Curve
    received: Curve | None = None


class Fitted(Struct, frozen=True):
    """A constant of the line through the round trips, and its interval."""

    value: float
    low: float
    high: float


class Fit(Struct, frozen=True):
    """The line through the round trips, and by how much it is off at most."""

    alpha_s: Fitted
    beta_s_per_byte: Fitted
    worst_error: float


class Route(Struct, frozen=True):
    """A transport's sweeps, by how they were made."""

    hot: Sweep | None = field(name="back_to_back", default=None)
    cold: Sweep | None = field(name="between_sweeps", default=None)
    fit: Fit | None = None

    @property
    def sent(self) -> Mapping[str, Curve]:
        """What sends, by how it was made."""
        sweeps = {how: getattr(self, how) for how in HOW}
        return {how: sweep.sent for how, sweep in sweeps.items() if sweep is not None}


class Naive(Struct, frozen=True):
    """What a single transfer suggests of each stage."""

    route: str = field(name="road")
    transfer_s: float
    bytes_per_s: float
    concluded_s: dict[str, float]


class Part(Struct, frozen=True):
    """The calls of an operation, or of a layer, in a forward pass; None stands for those that no layer has."""

    of: str | int | None
    calls: int
    serialize_s: float
    transport_s: float
    device_s: float
    deserialize_s: float
    total_s: float


class Stage(Struct, frozen=True):
    """Where the forward passes of a stage spent their time."""

    name: str
    measured_s: Positive
    interval_s: Interval
    samples_s: list[Positive]
    phases_s: Phases
    operations: list[Part]
    layers: list[Part]
    unexplained_s: float
    unexplained_share: float
    bytes: Count
    rpc_count: Count


class Prediction(Struct, frozen=True, kw_only=True):
    """A stage's prediction beside its measurement, a median with its interval; ``error`` is relative, signed."""

    stage: str
    predicted_s: Positive
    measured_s: Positive
    measured_interval_s: Interval | None = None
    error: Finite
    predicted_phases_s: Phases = {}
    measured_phases_s: Phases = {}
    bound: str = ""
    hangs_on: str = ""
    moved: dict[str, Any] | None = None


class Projected(Struct, frozen=True, kw_only=True):
    """A stage as the cost model projects it, with its seconds by phase and what bounds it."""

    name: str
    route: str = field(name="road", default="")
    projected_s: Positive
    phases_s: Phases
    bounds_s: dict[str, float] = {}
    bound: str
    rpc_count: Count

    def __post_init__(self) -> None:
        check_phases("phases_s", self.phases_s)


class Projection(Struct, frozen=True, kw_only=True):
    """What was assumed, in words; whose published figures, and where from, if a device was; what follows."""

    assumed: list[str]
    source: str | None = None
    title: str | None = None
    stages: list[Projected]


class Diagnosis(Struct, frozen=True, kw_only=True):
    """A whole diagnosis."""

    model: str = ""
    tokens: int = 0
    prompt: str = ""
    device: str = ""
    threads: int = 0
    rounds: int = 0
    command: str = ""
    machine: dict[str, Any] | None = None
    transport: dict[str, Route | None] | None = None
    memory: dict[str, float] = {}
    rates: list[dict[str, Any]] = []
    naive: list[Naive] = []
    kernels: dict[str, str] = {}
    stages: list[Stage] = []
    prediction: list[Prediction]
    token_prediction: list[Prediction] = []  # of one more token after the prompt
    median_error: float = 0.0
    ranking_right: bool = True
    ties: list[tuple[str, str]] = []  # pairs of stages whose measured intervals overlap
    disturbed_runs: Mapping[str, int] = {}  # beside which others used the machine, by stage
    runs: int = 0
    projection: Projection | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` writes."""
        written: dict[str, Any] = to_builtins(self)
        return written


def read_diagnosis(path: Path) -> Diagnosis:
    """Read a diagnosis. Raises UsageError naming the file and the field that cannot be used."""
    return read(path, Diagnosis)
