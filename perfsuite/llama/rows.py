"""From samples to the rows of a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfsuite import statistics
from perfsuite.errors import MeasurementError
from perfsuite.llama.forecast import FORECAST
from perfsuite.llama.results import PHASES, Latency, StageRow, Token, UnsplitRow
from perfsuite.schema import Interval

if TYPE_CHECKING:
    import torch

    from runtime.stages import Stage
    from runtime.trace import Trace

BUDGETS = ("rpc_count", "bytes_sent", "bytes_received", "payload_copies")

Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Forward:
    """One timed forward pass: seconds as its caller sees them, and the token that it predicts.

    ``trace`` is None for a model that has none, ``logits`` (batch, vocab) unless they were asked for.
    """

    seconds: float
    next_token: int = 0
    trace: Trace | None = None
    logits: torch.Tensor | None = None


def unsplit_name(dtype: str) -> str:
    """What the unsplit model in ``dtype`` is called among the benchmarks."""
    return f"unsplit {dtype}"


def unsplit_row(forwards: Sequence[Forward], decode: Decode) -> UnsplitRow:
    """The row of the unsplit model in one dtype, from its forward passes, one per round."""
    return UnsplitRow(
        latency_s=latency_of(_seconds(forwards)),
        samples_s=_seconds(forwards),
        next_token=_token(forwards, decode),
    )


def stage_row(
    stage: Stage,
    samples: Mapping[str, Sequence[Forward]],
    worker_info: Mapping[str, Any],
    decode: Decode,
    *,
    seed: int,
) -> StageRow:
    """The row of ``stage``, from the forward passes of all benchmarks, one per round each.

    Raises MeasurementError when the stage's traffic differs from round to round.
    """
    forwards = samples[stage.name]
    totals = [forward.trace.totals() for forward in forwards if forward.trace is not None]
    budgets = {name: _constant(stage.name, name, totals) for name in BUDGETS}
    seconds = _seconds(forwards)
    unsplit = _seconds(samples[unsplit_name(stage.dtype)])
    vs_unsplit = statistics.paired_ratio(seconds, unsplit, seed=seed)
    vs_baseline = None
    if "baseline" in samples:
        vs_baseline = statistics.paired_ratio(_seconds(samples["baseline"]), seconds, seed=seed)
    forecast = FORECAST.get(stage.name)
    return StageRow(
        name=stage.name,
        latency_s=latency_of(_seconds(forwards)),
        samples_s=seconds,
        vs_baseline=vs_baseline.value if vs_baseline else None,
        vs_baseline_interval=Interval.of(vs_baseline) if vs_baseline else None,
        vs_unsplit=vs_unsplit.value,
        vs_unsplit_interval=Interval.of(vs_unsplit),
        forecast_speedup=forecast.speedup if forecast else None,
        rpc_count=budgets["rpc_count"],
        bytes_sent=budgets["bytes_sent"],
        bytes_received=budgets["bytes_received"],
        payload_copies=budgets["payload_copies"],
        phases_s={
            phase: statistics.median([total[f"{phase}_s"] for total in totals]).value  # type: ignore[literal-required]
            for phase in PHASES
        },
        next_token=_token(forwards, decode),
        dtype=stage.dtype,
        worker_sees=stage.worker_sees,
        device_name=str(worker_info["device_name"]),
        threads=int(worker_info["threads"]),
        kernels=str(worker_info["kernels"]),
    )


def _constant(stage: str, name: str, totals: Sequence[Mapping[str, Any]]) -> int:
    values = sorted({int(total[name]) for total in totals})
    if len(values) != 1:
        raise MeasurementError(f"{stage}: {name} differs from round to round: {values}")
    return values[0]


def _seconds(forwards: Sequence[Forward]) -> list[float]:
    return [forward.seconds for forward in forwards]


def latency_of(seconds: Sequence[float]) -> Latency:
    """Return the median of samples, with its interval."""
    estimate = statistics.median(seconds)
    return Latency(median=estimate.value, low=estimate.low, high=estimate.high)


def _token(forwards: Sequence[Forward], decode: Decode) -> Token:
    token = forwards[-1].next_token
    return Token(id=token, text=decode([token]))
