"""The ladder's result: the schema of its JSON, which whatever shows a ladder reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from perfsuite.schema import (
    AtLeastOne,
    Count,
    FieldError,
    Finite,
    Interval,
    NotNegative,
    Positive,
    read,
)

PHASES = ("serialize", "transport", "device", "deserialize", "trusted")

Phases = Mapping[str, NotNegative]
"""Seconds of a forward pass by phase; each of ``PHASES`` is there."""


class Latency(Struct, frozen=True):
    """Seconds of one forward pass: the median and its interval."""

    median: Positive
    low: Finite
    high: Finite

    def __post_init__(self) -> None:
        Interval(self.low, self.high)  # which must be one


class Token(Struct, frozen=True):
    """The token that a benchmark predicts after the prompt."""

    id: int = 0
    text: str = ""


class Generated(Struct, frozen=True, kw_only=True):
    """Greedy answers of ``new_tokens`` tokens after the same prompt, one per round.

    ``tpot_s`` is the time per output token after the first: over the rounds, the median of each round's median;
    ``tpot_p95_s`` is the 95th percentile of all of them. ``vs_unsplit`` is the ratio of the medians to those of
    the unsplit model of the same dtype with its cache, paired by round. What is per token is of each further
    token: ``phases_s`` in seconds, bytes of tensors that crossed.
    """

    new_tokens: AtLeastOne
    ttft_s: Latency
    tpot_s: Latency
    tpot_p95_s: Positive
    tokens_per_s: Positive
    samples_s: list[Positive] = []
    tokens: list[int] = []
    vs_unsplit: Positive | None = None
    vs_unsplit_interval: Interval | None = None
    phases_s: Phases | None = None
    rpc_count_per_token: NotNegative = 0.0
    bytes_sent_per_token: NotNegative = 0.0
    bytes_received_per_token: NotNegative = 0.0
    payload_copies_per_token: NotNegative = 0.0

    def __post_init__(self) -> None:
        if self.phases_s is not None:
            check_phases("phases_s", self.phases_s)


class UnsplitRow(Struct, frozen=True):
    """The unsplit model in one dtype."""

    latency_s: Latency
    samples_s: list[Positive] = []
    next_token: Token = Token()
    generated: Generated | None = None


class StageRow(Struct, frozen=True, kw_only=True):
    """One stage.

    ``vs_baseline`` is the speed-up, baseline / stage, and None where the baseline was not run; ``vs_unsplit`` is
    stage / unsplit of the same dtype. Both are medians of paired ratios.
    """

    name: str
    latency_s: Latency
    samples_s: list[Positive] = []
    vs_baseline: Positive | None = None
    vs_baseline_interval: Interval | None = None
    vs_unsplit: Positive
    vs_unsplit_interval: Interval | None = None
    forecast_speedup: Positive | None = None
    rpc_count: Count
    bytes_sent: Count
    bytes_received: Count
    payload_copies: Count = 0
    phases_s: Phases  # per phase the median over the rounds
    next_token: Token = Token()
    dtype: str = ""
    worker_sees: str = ""
    device_name: str = ""
    threads: int = 0  # of the worker
    kernels: str = ""
    generated: Generated | None = None

    def __post_init__(self) -> None:
        check_phases("phases_s", self.phases_s)


class Ladder(Struct, frozen=True, kw_only=True):
    """A whole run. What an older file lacks has a default."""

    model: str
    tokens: AtLeastOne
    prompt: str = ""
    rounds: AtLeastOne | None = None
    seed: int = 0
    device: str = ""
    confidence: float = 0.0  # of the latency intervals
    command: str = ""
    machine: dict[str, Any]
    disturbed_runs: Mapping[str, int] = {}  # beside which others used the machine, by benchmark
    next_token_agrees: bool = True
    unsplit: dict[str, UnsplitRow]
    stages: tuple[StageRow, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` writes."""
        written: dict[str, Any] = to_builtins(self)
        return written


def read_ladder(path: Path) -> Ladder:
    """Read what ``--json`` wrote. Raises UsageError naming the file and the field that cannot be used."""
    return read(path, Ladder)


def check_phases(field: str, phases: Phases) -> None:
    """Raise FieldError unless each phase is there: for a struct's own check."""
    for phase in PHASES:
        if phase not in phases:
            raise FieldError(f"{field}.{phase}", "is missing")
