"""The ladder's result: the shape of its JSON, which is also what the table is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from msgspec import Struct, field
from msgspec.structs import asdict

from perfsuite.schema import (
    AtLeastOne,
    Count,
    Finite,
    NotNegative,
    Positive,
    check_ends,
    read,
    words,
)

if TYPE_CHECKING:
    from perfsuite.machine import Machine
    from perfsuite.statistics import Estimate


class Phases(Struct, frozen=True):
    """Seconds of a forward pass by phase."""

    serialize: NotNegative
    transport: NotNegative
    device: NotNegative
    deserialize: NotNegative
    trusted: NotNegative


PHASES = Phases.__struct_fields__


class Interval(TypedDict):
    """The ends of an interval, in the unit of the figure it belongs to."""

    low: Finite
    high: Finite


class Latency(Interval):
    """Seconds of one forward pass."""

    median: Positive


def interval_of(estimate: Estimate) -> Interval:
    """Return what is written of an estimate's interval."""
    return Interval(low=estimate.low, high=estimate.high)


class Token(TypedDict):
    """The token that a contender predicts after the prompt."""

    id: int
    text: str


class UnsplitRow(TypedDict):
    """The unsplit model in one dtype."""

    latency_s: Latency
    samples_s: list[float]
    next_token: Token


class StageRow(TypedDict):
    """One stage.

    ``vs_baseline`` is the speed-up, baseline / stage, and null where the baseline was not run;
    ``vs_unsplit`` is stage / unsplit of the same dtype. Both are medians of paired ratios.
    """

    name: str
    latency_s: Latency
    samples_s: list[float]
    vs_baseline: float | None
    vs_baseline_interval: Interval | None
    vs_unsplit: float
    vs_unsplit_interval: Interval
    forecast_speedup: float | None
    rpc_count: int
    bytes_sent: int
    bytes_received: int
    payload_copies: int
    phases_s: dict[str, float]  # per phase the median over the rounds, in seconds
    next_token: Token
    dtype: str
    worker_sees: str
    device_name: str
    threads: int  # of the worker
    kernels: str


class LadderResult(TypedDict):
    """A whole run."""

    model: str
    tokens: int
    prompt: str
    rounds: int
    seed: int
    device: str
    confidence: float  # of the latency intervals
    command: str
    machine: Machine
    disturbed_runs: Mapping[str, int]  # beside which others used the machine, by contender
    next_token_agrees: bool
    unsplit: dict[str, UnsplitRow]
    stages: list[StageRow]


class _UnsplitLatency(Struct, frozen=True):
    latency_s: Latency

    def __post_init__(self) -> None:
        _check_interval("latency_s", self.latency_s)


class LadderStage(Struct, frozen=True, kw_only=True):
    """A ``StageRow`` as it is read again, as far as anybody looks at it."""

    name: str
    latency: Latency = field(name="latency_s")
    phases_s: Phases
    vs_baseline: Positive | None = None
    vs_baseline_interval: Interval | None = None
    vs_unsplit: Positive
    vs_unsplit_interval: Interval | None = None
    forecast: Positive | None = field(default=None, name="forecast_speedup")
    rpc_count: Count
    bytes_sent: Count
    bytes_received: Count
    worker_sees: str = ""

    def __post_init__(self) -> None:
        _check_interval("latency_s", self.latency)
        _check_interval("vs_baseline_interval", self.vs_baseline_interval)
        _check_interval("vs_unsplit_interval", self.vs_unsplit_interval)

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds by phase."""
        return asdict(self.phases_s)


class Ladder(Struct, frozen=True, kw_only=True):
    """A ``LadderResult`` as it is read again."""

    model: str
    tokens: AtLeastOne
    device: str = ""
    rounds: AtLeastOne | None = None
    command: str = ""
    fingerprint: dict[str, Any] = field(name="machine")
    unsplit_rows: dict[str, _UnsplitLatency] = field(name="unsplit")
    stages: tuple[LadderStage, ...]

    @property
    def machine(self) -> Mapping[str, str]:
        """What is known of the machine, for showing."""
        return words(self.fingerprint)

    @property
    def unsplit(self) -> Mapping[str, Latency]:
        """The unsplit model's latencies by dtype."""
        return {dtype: row.latency_s for dtype, row in self.unsplit_rows.items()}


def read_ladder(path: Path) -> Ladder:
    """Read what ``--json`` wrote. Raises UsageError naming the file and the field that cannot be used."""
    return read(path, Ladder)


def _check_interval(name: str, interval: Interval | None) -> None:
    if interval is not None:
        check_ends(name, interval["low"], interval["high"])
