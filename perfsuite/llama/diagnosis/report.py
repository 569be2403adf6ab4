"""The diagnosis as blocks, in the order of its argument: the same for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from perfsuite.llama.diagnosis.result import (
    NAIVE_BYTES,
    Diagnosis,
    Fit,
    Prediction,
    Projection,
    Stage,
)
from perfsuite.llama.forecast import CLAIMED_SHARES, FORECAST
from perfsuite.llama.neighbours import told
from perfsuite.llama.results import PHASES, Phases
from perfsuite.llama.table import format_bytes
from perfsuite.render.blocks import MISSING, Block, Heading, Note, Paragraph, Row, Table, columns
from perfsuite.units import brief_seconds, counted

_SHOWN_BYTES = (1024, 1024 * 1024, NAIVE_BYTES, 128 * 1024 * 1024)


def diagnosis_blocks(result: Diagnosis) -> Iterator[Block]:
    """Yield the whole diagnosis."""
    tokens = f"{result.tokens:,} tokens ({result.prompt})"
    counts = f"{counted(result.threads, 'thread')}, {counted(result.rounds, 'round')}"
    yield Heading(f"{result.model}, {tokens}, {result.device}, {counts}")
    if result.disturbed_runs:
        yield Note(told(result.disturbed_runs, result.runs), "busy")
    yield Heading("1. One transfer: round trip by payload sent", 2)
    yield _transport(result)
    for route, found in (result.transport or {}).items():
        if found is not None and found.fit is not None:
            yield Note(_fit(found.fit), f"{route}, hot")
    yield Note(_memory(result), "memory")
    yield Heading("2. What one would conclude from it", 2)
    yield _naive(result)
    yield Heading("3. Where a forward pass really spends its time", 2)
    yield _phases(result)
    yield _operations(result)
    yield from map(_layers, result.stages)
    yield Heading("4. Predicted from microbenchmarks alone", 2)
    yield predictions(result.prediction)
    yield from map(judgement, result.prediction)
    yield Note(_ranking(result), "all")
    if result.token_prediction:
        yield predictions(result.token_prediction, "one more token")
    yield Heading("5. The analysis' forecast, for a model of its own", 2)
    yield _forecast(result)
    if result.projection is not None:
        assumed = ", ".join(result.projection.assumed)
        yield Heading(f"6. Projection, not a measurement: {assumed}", 2)
        yield projected(result, result.projection)
        if result.projection.source:
            yield Paragraph(bound(result.projection))


def bound(projection: Projection) -> str:
    """Say whose figures a projection rests on, and what they leave out."""
    return (
        f"{projection.title}: published peaks ({projection.source}); a bound from below: "
        "launches, and what kernels reach of a peak, come on top"
    )


def _seconds(phases: Phases) -> list[str]:
    return [brief_seconds(phases[phase]) if phase in phases else MISSING for phase in PHASES]


def _transport(result: Diagnosis) -> Table:
    heads = columns("transport", "caches", *map(format_bytes, _SHOWN_BYTES), left=("caches",))
    rows = []
    for route, found in (result.transport or {}).items():
        for how, curve in (found.sent if found else {}).items():
            at = dict(curve.points)
            shown = (brief_seconds(at[size]) if size in at else MISSING for size in _SHOWN_BYTES)
            rows.append(Row(route, how, *shown))
    return Table(heads, rows)


def _fit(fit: Fit) -> str:
    """Show the line; where it does not rise for certain, no throughput is known."""
    alpha, beta = fit.alpha_s, fit.beta_s_per_byte
    begin = f"{alpha.value * 1e6:.0f} [{alpha.low * 1e6:.0f}, {alpha.high * 1e6:.0f}] us"
    if beta.low <= 0:
        return f"{begin}, and no cost per byte that can be told from none"
    value, least, most = (1e-9 / one for one in (beta.value, beta.high, beta.low))
    return (
        f"{begin} + bytes / {value:.3g} [{least:.3g}, {most:.3g}] GB/s; "
        f"off by up to {fit.worst_error:.0%}"
    )


def _memory(result: Diagnosis) -> str:
    rates = {name: f"{rate / 1e9:.1f} GB/s" for name, rate in result.memory.items()}
    return (
        f"{rates['bandwidth']} read and written; filling pages for the first time "
        f"{rates['first_touch_bytes_per_s']}, again {rates['warm_bytes_per_s']}"
    )


def _naive(result: Diagnosis) -> Table:
    stages = result.stages
    rows = [
        Row(
            row.route,
            brief_seconds(row.transfer_s),
            f"{row.bytes_per_s / 1e6:,.0f} MB/s",
            *(brief_seconds(row.concluded_s[stage.name]) for stage in stages),
        )
        for row in result.naive
    ]
    carried = [format_bytes(stage.bytes) for stage in stages]
    rows.append(Row("payload of a forward pass", "", "", *carried, tone="dim"))
    measured = [brief_seconds(stage.measured_s) for stage in stages]
    rows.append(Row("measured", "", "", *measured, tone="bold"))
    return Table(columns("transport", "10 MB take", "so", *(stage.name for stage in stages)), rows)


def _phases(result: Diagnosis) -> Table:
    claimed = [f"{CLAIMED_SHARES[p]:.0%}" if p in CLAIMED_SHARES else "" for p in PHASES]
    rows = [Row("claimed by the analysis", "", *claimed, "", tone="dim")]
    for stage in result.stages:
        shares = [f"{stage.phases_s[phase] / stage.measured_s:.1%}" for phase in PHASES]
        unexplained = f"{stage.unexplained_share:.2%}"
        rows.append(Row(stage.name, brief_seconds(stage.measured_s), *shares, unexplained))
    return Table(columns("stage", "measured", *PHASES, "unexplained"), rows)


def _operations(result: Diagnosis) -> Table:
    rows = [
        Row(
            f"{stage.name}, {row.of}",
            str(row.calls),
            brief_seconds(row.total_s),
            *(brief_seconds(getattr(row, f"{phase}_s")) for phase in PHASES[:4]),
            f"{row.total_s / stage.measured_s:.1%}",
        )
        for stage in result.stages
        for row in stage.operations
    ]
    return Table(columns("stage, operation", "calls", "total", *PHASES[:4], "share"), rows)


def _layers(stage: Stage) -> Note:
    """Say how much the layers differ, as far as their calls go."""
    layers = [row for row in stage.layers if row.of is not None]
    slowest = max(layers, key=lambda row: row.total_s)
    usual = median(row.total_s for row in layers)
    return Note(
        f"{counted(len(layers), 'layer')}, calls of {brief_seconds(usual)} in a usual one, of "
        f"{brief_seconds(slowest.total_s)} in layer {slowest.of}, the slowest",
        stage.name,
    )


def predictions(rows_of: Sequence[Prediction], first: str = "stage") -> Table:
    """Return what the cost model says of each stage, above what was measured; ``first`` heads the stages."""
    rows = []
    for row in rows_of:
        predicted = _seconds(row.predicted_phases_s)
        error, total = f"{row.error:+.1%}", brief_seconds(row.predicted_s)
        rows.append(Row(row.stage, "predicted", total, error, *predicted))
        measured = _seconds(row.measured_phases_s)
        total = brief_seconds(row.measured_s)
        rows.append(Row("", "measured", total, "", *measured, tone="dim"))
    heads = columns(first, "", "total", "error", *PHASES, left=("",))
    return Table(heads, rows, "Predicted and measured")


def judgement(row: Prediction) -> Note:
    """Say in one line what a stage's error hangs on, or what moved."""
    text = f"bound by {row.bound}; the error hangs most on {row.hangs_on}"
    if row.moved:
        text = (
            f"{row.moved['phase']} takes {row.moved['factor']:.1f} times what the model says, "
            f"{brief_seconds(row.moved['excess_s'])} too much; what moved is {row.moved['constant']}"
        )
    return Note(text, row.stage)


def _ranking(result: Diagnosis) -> str:
    order = "right" if result.ranking_right else "WRONG"
    text = f"median error {result.median_error:.1%}; ranking of the stages {order}"
    if result.ties:
        pairs = ", ".join(" and ".join(pair) for pair in result.ties)
        text += f"; not told apart, because their intervals overlap: {pairs}"
    return text


def _forecast(result: Diagnosis) -> Table:
    heads = ("stage", "forecast", "predicted", "measured", "forecast", "predicted", "measured")
    first = result.prediction[0]
    rows = []
    for row in result.prediction:
        forecast, base = FORECAST.get(row.stage), FORECAST.get(first.stage)
        rows.append(
            Row(
                row.stage,
                brief_seconds(forecast.latency_s) if forecast else MISSING,
                brief_seconds(row.predicted_s),
                brief_seconds(row.measured_s),
                f"{base.latency_s / forecast.latency_s:.1f}x" if base and forecast else MISSING,
                f"{first.predicted_s / row.predicted_s:.1f}x",
                f"{first.measured_s / row.measured_s:.1f}x",
            )
        )
    return Table(columns(*heads), rows)


def projected(result: Diagnosis, projection: Projection) -> Table:
    """Return what a change would bring, beside what was measured."""
    now = {row.stage: row.measured_s for row in result.prediction}
    rows = [
        Row(
            row.name,
            brief_seconds(now[row.name]) if row.name in now else MISSING,
            brief_seconds(row.projected_s),
            gain(now.get(row.name), row.projected_s),
            str(row.rpc_count),
            *_seconds(row.phases_s),
            row.bound,
        )
        for row in projection.stages
    ]
    heads = ("stage", "now", "projected", "gain", "RPCs", *PHASES, "bound")
    return Table(columns(*heads, left=("bound",)), rows, "Projected, by phase")


def gain(now_s: float | None, projected_s: float) -> str:
    """Return how many times as fast it would be."""
    return MISSING if now_s is None else f"{now_s / projected_s:.1f}x"
