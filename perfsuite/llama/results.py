"""The ladder's result: the shape of its JSON, which is also what the table is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from perfsuite.machine import Machine

PHASES = ("serialize", "transport", "device", "deserialize", "trusted")


class Interval(TypedDict):
    """The ends of an interval, in the unit of the figure it belongs to."""

    low: float
    high: float


class Latency(Interval):
    """Seconds of one forward pass."""

    median: float


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
