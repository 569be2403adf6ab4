"""The parts of a diagnosis' result, each from what was measured."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import mean, median
from typing import Any

from perfsuite import statistics
from perfsuite.llama.cost_model import Prediction, predict, road_of
from perfsuite.llama.diagnosis.calibrating import TOUCHED_BYTES, Findings
from perfsuite.llama.diagnosis.measuring import Timed
from perfsuite.llama.diagnosis.result import NAIVE_BYTES, PredictionRow
from perfsuite.llama.diagnosis.sweep import CALL_PHASES, Samples
from perfsuite.llama.diagnosis.what_if import WhatIf
from perfsuite.llama.line_fit import fit_line
from perfsuite.llama.residuals import CONSTANT_OF, moved_constant
from perfsuite.llama.results import PHASES, interval_of
from runtime.checkpoints import ModelConfig
from runtime.stages import Stage
from runtime.trace import RpcRecord
from runtime.traffic import forward_traffic


def transport_section(samples: Mapping[str, Samples]) -> dict[str, Any]:
    """Return per road the curves of the sweeps, by phase, and the line through the round trips."""
    section: dict[str, Any] = {}
    for road, found in samples.items():
        section[road] = {
            name: {
                kind: {
                    "bytes": found.curve(kind, cold, ["serialize"]).sizes,
                    **{
                        f"{phase}_s": found.curve(kind, cold, [phase]).seconds
                        for phase in CALL_PHASES
                    },
                    "round_trip_s": found.curve(kind, cold, CALL_PHASES[:3]).seconds,
                }
                for kind in ("sent", "received")
            }
            for name, cold in (("back_to_back", False), ("between_sweeps", True))
        }
        fit = fit_line(*found.round_trips("sent", cold=False))
        section[road]["fit"] = {
            "alpha_s": asdict(fit.alpha),
            "beta_s_per_byte": asdict(fit.beta),
            "worst_error": fit.worst,
        }
    return section


def naive_section(
    transport: Mapping[str, Any], config: ModelConfig, stages: Sequence[Stage], tokens: int
) -> list[dict[str, Any]]:
    """Return what a single transfer suggests: a stage's bytes over its throughput, road by road."""
    section = []
    for road, curves in transport.items():
        sent = curves["back_to_back"]["sent"]
        seconds = sent["round_trip_s"][sent["bytes"].index(NAIVE_BYTES)]
        throughput = NAIVE_BYTES / seconds
        section.append(
            {
                "road": road,
                "transfer_s": seconds,
                "bytes_per_s": throughput,
                "concluded_s": {
                    stage.name: forward_traffic(config, stage, tokens).total_bytes / throughput
                    for stage in stages
                },
            }
        )
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


def stage_section(stage: Stage, forwards: Sequence[Timed]) -> dict[str, Any]:
    """Return where the forward passes of ``stage`` spent their time: by phase, operation and layer."""
    # Of the middle forward passes, not a median for each phase: those would sum to another time.
    middle = [each.trace.totals() for each in _middle(forwards)]
    phases = {phase: mean(total[f"{phase}_s"] for total in middle) for phase in PHASES}  # type: ignore[literal-required]
    estimate = statistics.median([each.seconds for each in forwards])
    measured = estimate.value
    unexplained = measured - sum(phases.values())
    return {
        "name": stage.name,
        "measured_s": measured,
        "interval_s": interval_of(estimate),
        "samples_s": [each.seconds for each in forwards],
        "phases_s": phases,
        "operations": _grouped(forwards, lambda rpc: rpc.operation),
        "layers": _grouped(forwards, lambda rpc: rpc.layer),
        "unexplained_s": unexplained,
        "unexplained_share": unexplained / measured,
        "bytes": middle[0]["bytes_sent"] + middle[0]["bytes_received"],
        "rpc_count": middle[0]["rpc_count"],
    }


def _middle(forwards: Sequence[Timed]) -> Sequence[Timed]:
    """Return the one or two forward passes whose mean is the median."""
    ordered = sorted(forwards, key=lambda each: each.seconds)
    half = len(ordered) // 2
    return ordered[half : half + 1] if len(ordered) % 2 else ordered[half - 1 : half + 1]


def _grouped(forwards: Sequence[Timed], key: Callable[[RpcRecord], object]) -> list[dict[str, Any]]:
    """Return the calls' seconds by phase, summed by ``key``, as medians over the forward passes."""
    sums: dict[Any, list[dict[str, float]]] = defaultdict(list)
    counts: dict[Any, int] = {}
    for each in forwards:
        groups: dict[Any, list[RpcRecord]] = defaultdict(list)
        for rpc in each.trace.rpcs:
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
        {
            "of": name,
            "calls": counts[name],
            **{phase: median(row[phase] for row in rows) for phase in rows[0]},
        }
        for name, rows in sums.items()
    ]


def prediction_row(stage: Mapping[str, Any], prediction: Prediction) -> PredictionRow:
    """Return a stage's prediction beside its measured section, and the constant that its error hangs on."""
    measured: Mapping[str, float] = stage["phases_s"]
    worst = max(PHASES, key=lambda phase: abs(measured[phase] - prediction.phases[phase]))
    moved = moved_constant(measured, prediction.phases)
    return PredictionRow(
        stage=prediction.stage,
        predicted_s=prediction.total_s,
        measured_s=stage["measured_s"],
        measured_interval_s=stage["interval_s"],
        error=prediction.total_s / stage["measured_s"] - 1,
        predicted_phases_s=prediction.phases,
        measured_phases_s=measured,
        bound=prediction.bound,
        hangs_on=CONSTANT_OF[worst],
        moved=asdict(moved) if moved else None,
    )


def ranking_right(rows: Sequence[PredictionRow]) -> bool:
    """Say whether of any two stages the one that was measured faster is predicted to be faster.

    Two whose intervals overlap were not told apart by the measurement, and have no order: see ``ties``.
    """
    return all(
        one["predicted_s"] < other["predicted_s"]
        for one, other in itertools.permutations(rows, 2)
        if _is_faster(one, other)
    )


def ties(rows: Sequence[PredictionRow]) -> list[tuple[str, str]]:
    """Return the pairs of stages that the measurement did not tell apart."""
    return [
        (one["stage"], other["stage"])
        for one, other in itertools.combinations(rows, 2)
        if not _is_faster(one, other) and not _is_faster(other, one)
    ]


def _is_faster(one: PredictionRow, other: PredictionRow) -> bool:
    return one["measured_interval_s"]["high"] < other["measured_interval_s"]["low"]


def projection_section(
    what_if: WhatIf, config: ModelConfig, stages: Sequence[Stage], tokens: int, findings: Findings
) -> dict[str, Any] | None:
    """Return the ladder that one would get under the assumptions; None without any."""
    if not what_if.texts:
        return None
    rows = [
        predict(config, stage, tokens, findings.constants, what_if.assumptions)
        for stage in what_if.stages(stages)
    ]
    accelerator = what_if.accelerator
    return {
        "assumed": list(what_if.texts),
        "source": accelerator.source if accelerator else None,
        "title": accelerator.title if accelerator else None,
        "stages": [
            {
                "name": row.stage,
                "road": what_if.road or road_of(stage.transport),
                "projected_s": row.total_s,
                "phases_s": row.phases,
                "bounds_s": row.bounds,
                "bound": row.bound,
                "rpc_count": row.rpc_count,
            }
            for stage, row in zip(stages, rows, strict=True)
        ],
    }
