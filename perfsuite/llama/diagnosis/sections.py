"""The parts of a diagnosis' result, each from what was measured."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import mean, median
from typing import Any, Literal

from perfsuite import statistics
from perfsuite.llama.cost_model import Prediction, predict, route_of
from perfsuite.llama.diagnosis import result
from perfsuite.llama.diagnosis.microbenchmarks import TOUCHED_BYTES, Findings
from perfsuite.llama.diagnosis.result import (
    NAIVE_BYTES,
    Curve,
    Fit,
    Fitted,
    Naive,
    Part,
    Projected,
    Projection,
    Route,
    Sweep,
)
from perfsuite.llama.diagnosis.sweep import CALL_PHASES, Samples
from perfsuite.llama.diagnosis.what_if import WhatIf
from perfsuite.llama.line_fit import fit_line
from perfsuite.llama.residuals import CONSTANT_OF, moved_constant
from perfsuite.llama.results import PHASES
from perfsuite.llama.rows import Forward
from perfsuite.schema import Interval
from runtime.checkpoints import ModelConfig
from runtime.stages import Stage
from runtime.trace import RpcRecord, Trace
from runtime.traffic import forward_traffic


def transport_section(samples: Mapping[str, Samples]) -> dict[str, Route]:
    """Return per route the curves of the sweeps, by phase, and the line through the round trips."""
    return {
        route: Route(_sweep(found, cold=False), _sweep(found, cold=True), _fit(found))
        for route, found in samples.items()
    }


def _sweep(found: Samples, *, cold: bool) -> Sweep:
    return Sweep(*(_curve(found, kind, cold) for kind in ("sent", "received")))


def _curve(found: Samples, kind: Literal["sent", "received"], cold: bool) -> Curve:
    whole = found.curve(kind, cold, CALL_PHASES[:3])
    phases = {f"{phase}_s": found.curve(kind, cold, [phase]).seconds for phase in CALL_PHASES}
    return Curve(bytes=whole.sizes, round_trip_s=whole.seconds, **phases)


def _fit(found: Samples) -> Fit:
    fit = fit_line(*found.round_trips("sent", cold=False))
    alpha, beta = (Fitted(one.value, one.low, one.high) for one in (fit.alpha, fit.beta))
    return Fit(alpha, beta, fit.worst)


def naive_section(
    transport: Mapping[str, Route], config: ModelConfig, stages: Sequence[Stage], tokens: int
) -> list[Naive]:
    """Return what a single transfer suggests: a stage's bytes over its throughput, route by route."""
    section = []
    for name, route in transport.items():
        seconds = dict(route.sent["hot"].points)[NAIVE_BYTES]
        throughput = NAIVE_BYTES / seconds
        concluded = {
            stage.name: forward_traffic(config, stage, tokens).total_bytes / throughput
            for stage in stages
        }
        section.append(Naive(name, seconds, throughput, concluded))
    return section


def memory_section(findings: Findings) -> dict[str, float]:
    """Return what memory does: bandwidth, and new pages against those that were touched before."""
    return {
        "bandwidth": findings.constants.bandwidth,
        "first_touch_bytes_per_s": TOUCHED_BYTES / findings.first_touch_s,
        "warm_bytes_per_s": TOUCHED_BYTES / findings.warm_touch_s,
    }


def rates_section(findings: Findings) -> list[dict[str, Any]]:
    """Return the rate of each operation at each shape: FLOP/s of matrix products, bytes/s of the others."""
    return [
        {
            "side": side,
            "kind": kind,
            "dtype": dtype,
            "memory": memory,
            "shape": rate.shape,
            "per_second": rate.per_second,
        }
        for (side, kind, dtype, memory), rates in findings.constants.rates.items()
        for rate in rates
    ]


def stage_section(stage: Stage, forwards: Sequence[Forward]) -> result.Stage:
    """Return where the forward passes of ``stage`` spent their time: by phase, operation and layer."""
    # Of the middle forward passes, not a median for each phase: those would sum to another time.
    middle = [trace.totals() for trace in _traces(_middle(forwards))]
    phases = {phase: mean(total[f"{phase}_s"] for total in middle) for phase in PHASES}  # type: ignore[literal-required]
    estimate = statistics.median([each.seconds for each in forwards])
    measured = estimate.value
    unexplained = measured - sum(phases.values())
    return result.Stage(
        name=stage.name,
        measured_s=measured,
        interval_s=Interval.of(estimate),
        samples_s=[each.seconds for each in forwards],
        phases_s=phases,
        operations=_grouped(forwards, lambda rpc: rpc.operation),
        layers=_grouped(forwards, lambda rpc: rpc.layer),
        unexplained_s=unexplained,
        unexplained_share=unexplained / measured,
        bytes=middle[0]["bytes_sent"] + middle[0]["bytes_received"],
        rpc_count=middle[0]["rpc_count"],
    )


def _middle(forwards: Sequence[Forward]) -> Sequence[Forward]:
    """Return the one or two forward passes whose mean is the median."""
    ordered = sorted(forwards, key=lambda each: each.seconds)
    half = len(ordered) // 2
    return ordered[half : half + 1] if len(ordered) % 2 else ordered[half - 1 : half + 1]


def _traces(forwards: Sequence[Forward]) -> list[Trace]:
    return [each.trace for each in forwards if each.trace is not None]


def _grouped(
    forwards: Sequence[Forward], key: Callable[[RpcRecord], str | int | None]
) -> list[Part]:
    """Return the calls' seconds by phase, summed by ``key``, as medians over the forward passes."""
    sums: dict[str | int | None, list[dict[str, float]]] = defaultdict(list)
    counts: dict[str | int | None, int] = {}
    for trace in _traces(forwards):
        groups: dict[str | int | None, list[RpcRecord]] = defaultdict(list)
        for rpc in trace.rpcs:
            groups[key(rpc)].append(rpc)
        for name, rpcs in groups.items():
            counts[name] = len(rpcs)
            sums[name].append(
                {
                    f"{phase}_s": sum(getattr(rpc, f"{phase}_s") for rpc in rpcs)
                    for phase in (*PHASES[:4], "total")
                }
            )
    return [
        Part(name, counts[name], **{phase: median(row[phase] for row in rows) for phase in rows[0]})
        for name, rows in sums.items()
    ]


def prediction_row(stage: result.Stage, prediction: Prediction) -> result.Prediction:
    """Return a stage's prediction beside its measured section, and the constant that its error hangs on."""
    measured = stage.phases_s
    worst = max(PHASES, key=lambda phase: abs(measured[phase] - prediction.phases[phase]))
    moved = moved_constant(measured, prediction.phases)
    return result.Prediction(
        stage=prediction.stage,
        predicted_s=prediction.total_s,
        measured_s=stage.measured_s,
        measured_interval_s=stage.interval_s,
        error=prediction.total_s / stage.measured_s - 1,
        predicted_phases_s=prediction.phases,
        measured_phases_s=measured,
        bound=prediction.bound,
        hangs_on=CONSTANT_OF[worst],
        moved=asdict(moved) if moved else None,
    )


def ranking_right(rows: Sequence[result.Prediction]) -> bool:
    """Say whether of any two stages the one that was measured faster is predicted to be faster.

    Two whose intervals overlap were not told apart by the measurement, and have no order: see ``ties``.
    """
    return all(
        one.predicted_s < other.predicted_s
        for one, other in itertools.permutations(rows, 2)
        if _is_faster(one, other)
    )


def ties(rows: Sequence[result.Prediction]) -> list[tuple[str, str]]:
    """Return the pairs of stages that the measurement did not tell apart."""
    return [
        (one.stage, other.stage)
        for one, other in itertools.combinations(rows, 2)
        if not _is_faster(one, other) and not _is_faster(other, one)
    ]


def _is_faster(one: result.Prediction, other: result.Prediction) -> bool:
    first, second = one.measured_interval_s, other.measured_interval_s
    return first is not None and second is not None and first.high < second.low


def projection_section(
    what_if: WhatIf, config: ModelConfig, stages: Sequence[Stage], tokens: int, findings: Findings
) -> Projection | None:
    """Return the ladder that one would get under the assumptions; None without any."""
    if not what_if.texts:
        return None
    rows = [
        predict(config, stage, tokens, findings.constants, what_if.assumptions)
        for stage in what_if.stages(stages)
    ]
    accelerator = what_if.accelerator
    return Projection(
        assumed=list(what_if.texts),
        source=accelerator.source if accelerator else None,
        title=accelerator.title if accelerator else None,
        stages=[
            Projected(
                name=row.stage,
                route=what_if.route or route_of(stage.transport),
                projected_s=row.total_s,
                phases_s=row.phases,
                bounds_s=dict(row.bounds),
                bound=row.bound,
                rpc_count=row.rpc_count,
            )
            for stage, row in zip(stages, rows, strict=True)
        ],
    )
