"""The diagnosis' result: the shape of its JSON, from which the terminal's text and the charts are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from perfsuite.llama.results import Interval
from perfsuite.machine import Machine

NAIVE_BYTES = 10 * 1024 * 1024
"""The single transfer of the analysis."""


class PredictionRow(TypedDict):
    """A stage's prediction beside its measurement, a median with its interval; ``error`` is relative, signed."""

    stage: str
    predicted_s: float
    measured_s: float
    measured_interval_s: Interval
    error: float
    predicted_phases_s: Mapping[str, float]
    measured_phases_s: Mapping[str, float]
    bound: str
    hangs_on: str
    moved: Mapping[str, Any] | None


class Diagnosis(TypedDict):
    """A whole diagnosis; times are in seconds, sizes in bytes, rates per second."""

    model: str
    tokens: int
    prompt: str
    device: str
    threads: int
    rounds: int
    command: str
    machine: Machine
    transport: Mapping[str, Any]
    memory: Mapping[str, float]
    rates: Sequence[Mapping[str, Any]]
    naive: Sequence[Mapping[str, Any]]
    kernels: Mapping[str, str]
    stages: Sequence[Mapping[str, Any]]
    prediction: Sequence[PredictionRow]
    median_error: float
    ranking_right: bool
    ties: Sequence[tuple[str, str]]  # pairs of stages whose measured intervals overlap
    disturbed_runs: Mapping[str, int]  # beside which others used the machine, by stage
    runs: int
    projection: Mapping[str, Any] | None
