"""The diagnosis as text for a terminal or a log, in the order of its argument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.llama.diagnosis.result import NAIVE_BYTES, Diagnosis, PredictionRow
from perfsuite.llama.forecast import CLAIMED_SHARES, FORECAST
from perfsuite.llama.neighbours import told
from perfsuite.llama.results import PHASES
from perfsuite.llama.table import MISSING, WIDTH, format_bytes, print_plain
from perfsuite.units import brief_seconds

_SHOWN_BYTES = (1024, 1024 * 1024, NAIVE_BYTES, 128 * 1024 * 1024)


def print_diagnosis(result: Diagnosis, console: Console | None = None) -> None:
    """Print ``result`` on stdout, or on ``console``: no line is wider than WIDTH columns."""
    print_plain(Group(*_sections(result)), console, WIDTH)


def _sections(result: Diagnosis) -> Iterator[RenderableType]:
    yield Text(
        f"{result['model']}, {result['tokens']:,} tokens, {result['device']}, "
        f"{result['threads']} threads, {result['rounds']} rounds"
    )
    if result["disturbed_runs"]:
        yield Text(f"busy: {told(result['disturbed_runs'], result['runs'])}")
    yield from _titled("1. One transfer: round trip by payload sent", _transport(result))
    yield from (_fit(road, found["fit"]) for road, found in result["transport"].items())
    yield _memory(result)
    yield from _titled("2. What one would conclude from it", _naive(result))
    yield from _titled("3. Where a forward pass really spends its time", _phases(result))
    yield _operations(result)
    yield from map(_layers, result["stages"])
    yield from _titled("4. Predicted from micro-measurements alone", _predictions(result))
    yield from (Text(judgement(row)) for row in result["prediction"])
    yield _ranking(result)
    yield from _titled("5. The analysis' forecast, for a model of its own", _forecast(result))
    projection = result["projection"]
    if projection:
        title = f"6. Projection, not a measurement: {', '.join(projection['assumed'])}"
        yield from _titled(title, _projection(result, projection))
        if projection["source"]:
            yield Text(f"{projection['title']}: published peaks ({projection['source']});")
            yield Text(
                "a bound from below: launches, and what kernels reach of a peak, come on top"
            )


def _titled(title: str, body: RenderableType) -> tuple[RenderableType, ...]:
    return Text(), Text(title, style="bold"), body


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, title in enumerate(titles):
        left = index == 0 or title in ("", "how", "bound")
        table.add_column(title, justify="left" if left else "right", no_wrap=index == 0)
    return table


def _transport(result: Diagnosis) -> Table:
    table = _table("road", "how", *(format_bytes(size) for size in _SHOWN_BYTES))
    for road, found in result["transport"].items():
        for how in ("back_to_back", "between_sweeps"):
            sent = found[how]["sent"]
            at = dict(zip(sent["bytes"], sent["round_trip_s"], strict=True))
            shown = (brief_seconds(at[size]) if size in at else "-" for size in _SHOWN_BYTES)
            table.add_row(road, how.replace("_", " "), *shown)
    return table


def _fit(road: str, fit: Mapping[str, Any]) -> Text:
    """Show the line; where it does not rise for certain, no throughput is known."""
    alpha, beta = fit["alpha_s"], fit["beta_s_per_byte"]
    low, high = alpha["low"] * 1e6, alpha["high"] * 1e6
    begin = f"{road}, back to back: {alpha['value'] * 1e6:.0f} [{low:.0f}, {high:.0f}] us"
    if beta["low"] <= 0:
        return Text(f"{begin}, and no cost per byte that can be told from none")
    value, least, most = (1e-9 / beta[key] for key in ("value", "high", "low"))
    return Text(
        f"{begin} + bytes / {value:.3g} [{least:.3g}, {most:.3g}] GB/s; "
        f"off by up to {fit['worst_error']:.0%}"
    )


def _memory(result: Diagnosis) -> Text:
    memory = result["memory"]
    return Text(
        f"memory: {memory['bandwidth'] / 1e9:.1f} GB/s read and written; filling pages for the first "
        f"time {memory['first_touch_bytes_per_s'] / 1e9:.1f} GB/s, again "
        f"{memory['warm_bytes_per_s'] / 1e9:.1f} GB/s"
    )


def _naive(result: Diagnosis) -> Table:
    table = _table("road", "10 MB take", "so", *(stage["name"] for stage in result["stages"]))
    for row in result["naive"]:
        table.add_row(
            row["road"],
            brief_seconds(row["transfer_s"]),
            f"{row['bytes_per_s'] / 1e6:,.0f} MB/s",
            *(brief_seconds(row["concluded_s"][stage["name"]]) for stage in result["stages"]),
        )
    carried = [format_bytes(stage["bytes"]) for stage in result["stages"]]
    table.add_row("payload of a forward pass", "", "", *carried, style="dim")
    measured = [brief_seconds(stage["measured_s"]) for stage in result["stages"]]
    table.add_row("measured", "", "", *measured, style="bold")
    return table


def _phases(result: Diagnosis) -> Table:
    table = _table("stage", "measured", *PHASES, "unexplained")
    claimed = [f"{CLAIMED_SHARES[p]:.0%}" if p in CLAIMED_SHARES else "" for p in PHASES]
    table.add_row("claimed by the analysis", "", *claimed, "", style="dim")
    for stage in result["stages"]:
        phases, total = stage["phases_s"], stage["measured_s"]
        shares = [f"{phases[phase] / total:.1%}" for phase in PHASES]
        table.add_row(
            stage["name"], brief_seconds(total), *shares, f"{stage['unexplained_share']:.2%}"
        )
    return table


def _operations(result: Diagnosis) -> Table:
    table = _table("stage, operation", "calls", "total", *PHASES[:4], "share")
    for stage in result["stages"]:
        for row in stage["operations"]:
            table.add_row(
                f"{stage['name']}, {row['of']}",
                str(row["calls"]),
                brief_seconds(row["total_s"]),
                *(brief_seconds(row[f"{phase}_s"]) for phase in PHASES[:4]),
                f"{row['total_s'] / stage['measured_s']:.1%}",
            )
    return table


def _layers(stage: Mapping[str, Any]) -> Text:
    """Say how much the layers differ, as far as their calls go."""
    layers = [row for row in stage["layers"] if row["of"] is not None]
    slowest = max(layers, key=lambda row: float(row["total_s"]))
    usual = median(row["total_s"] for row in layers)
    return Text(
        f"{stage['name']}: {len(layers)} layers, calls of {brief_seconds(usual)} in a usual one, of "
        f"{brief_seconds(slowest['total_s'])} in layer {slowest['of']}, the slowest"
    )


def _predictions(result: Diagnosis) -> Table:
    table = _table("stage", "", "total", "error", *PHASES)
    for row in result["prediction"]:
        predicted, measured = row["predicted_phases_s"], row["measured_phases_s"]
        table.add_row(
            row["stage"],
            "predicted",
            brief_seconds(row["predicted_s"]),
            f"{row['error']:+.1%}",
            *(brief_seconds(predicted[phase]) for phase in PHASES),
        )
        table.add_row(
            "",
            "measured",
            brief_seconds(row["measured_s"]),
            "",
            *(brief_seconds(measured[phase]) for phase in PHASES),
            style="dim",
        )
    return table


def judgement(row: PredictionRow) -> str:
    """Say in one line what a stage's error hangs on, or what moved."""
    text = f"{row['stage']}: bound by {row['bound']}; the error hangs most on {row['hangs_on']}"
    moved = row["moved"]
    if moved:
        text = (
            f"{row['stage']}: {moved['phase']} takes {moved['factor']:.1f} times what the model says, "
            f"{brief_seconds(moved['excess_s'])} too much; what moved is {moved['constant']}"
        )
    return text


def _ranking(result: Diagnosis) -> Text:
    order = "right" if result["ranking_right"] else "WRONG"
    text = f"median error {result['median_error']:.1%}; ranking of the stages {order}"
    if result["ties"]:
        pairs = ", ".join(" and ".join(pair) for pair in result["ties"])
        text += f"; not told apart, because their intervals overlap: {pairs}"
    return Text(text)


def _forecast(result: Diagnosis) -> Table:
    table = _table(
        "stage", "forecast", "predicted", "measured", "forecast", "predicted", "measured"
    )
    rows: Sequence[PredictionRow] = result["prediction"]
    first = rows[0]
    for row in rows:
        forecast, base = FORECAST.get(row["stage"]), FORECAST.get(first["stage"])
        table.add_row(
            row["stage"],
            brief_seconds(forecast.latency_s) if forecast else MISSING,
            brief_seconds(row["predicted_s"]),
            brief_seconds(row["measured_s"]),
            f"{base.latency_s / forecast.latency_s:.1f}x" if base and forecast else MISSING,
            f"{first['predicted_s'] / row['predicted_s']:.1f}x",
            f"{first['measured_s'] / row['measured_s']:.1f}x",
        )
    return table


def _projection(result: Diagnosis, projection: Mapping[str, Any]) -> Table:
    table = _table("stage", "now", "projected", "gain", "RPCs", *PHASES, "bound")
    for stage, row in zip(result["stages"], projection["stages"], strict=True):
        table.add_row(
            row["name"],
            brief_seconds(stage["measured_s"]),
            brief_seconds(row["projected_s"]),
            f"{stage['measured_s'] / row['projected_s']:.1f}x",
            str(row["rpc_count"]),
            *(brief_seconds(row["phases_s"][phase]) for phase in PHASES),
            row["bound"],
        )
    return table
