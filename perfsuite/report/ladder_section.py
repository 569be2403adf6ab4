"""The ladder on the page: where the time goes, and what each stage brought."""

from __future__ import annotations

from collections.abc import Mapping

from perfsuite.charts import Entry, IntervalRow, StackedRow, Words, intervals, stacked_bars
from perfsuite.llama.results import PHASES, Latency
from perfsuite.llama.rows import unsplit_name
from perfsuite.llama.table import format_bytes, format_latency, format_ratio
from perfsuite.report.inputs import Ladder, LadderStage
from perfsuite.report.parts import MISSING, Figure, Section, Table
from perfsuite.units import brief_seconds


def ladder_section(ladder: Ladder) -> Section | None:
    """The stages side by side; None without any."""
    if not ladder.stages:
        return None
    return Section(
        "ladder",
        "Ladder",
        "The ladder",
        notes=[heading(ladder)],
        tables=[ladder_table(ladder)],
        figures=[_seconds(ladder), _shares(ladder)],
    )


def speedup_section(ladder: Ladder) -> Section | None:
    """What was measured beside what the analysis forecast; None where the baseline was not run."""
    rows = [row for row in ladder.stages if row.vs_baseline is not None]
    if not rows:
        return None
    told = [f"{row.name}: {_speedup(row)}, forecast {_forecast(row)}" for row in rows]
    chart = intervals(
        [_speedup_row(row) for row in rows],
        Words("speedup-chart", "Speed-up over baseline", "; ".join(told)),
        unit="times as fast as baseline (logarithmic)",
        form=lambda value: f"{value:.3g}x",
        log=True,
        key=[Entry("one", "measured"), Entry("two", "forecast of the analysis", hollow=True)],
    )
    table = Table(
        "Speed-up over baseline",
        ("stage", "measured", "forecast"),
        [(row.name, _speedup(row), _forecast(row)) for row in rows],
        frozenset({1, 2}),
    )
    note = (
        "The forecast is the analysis' own, for a model of its own; it was never measured and is "
        "shown to be judged."
    )
    caption = "Measured with 95% intervals, beside the forecast."
    return Section(
        "speedup",
        "Speed-up",
        "Speed-up: measured and forecast",
        notes=[note],
        figures=[Figure(chart, caption, ladder.command, table)],
    )


def heading(ladder: Ladder) -> str:
    """What was run, in a line."""
    words = [ladder.model, f"{ladder.tokens:,} tokens", ladder.device]
    if ladder.rounds:
        words.append(f"{ladder.rounds} interleaved rounds")
    return ", ".join(word for word in words if word)


def ladder_table(ladder: Ladder) -> Table:
    """The rows of the terminal's ladder."""
    rows = [
        (
            row.name,
            format_latency(row.latency),
            MISSING if row.vs_baseline is None else _speedup(row),
            format_ratio(row.vs_unsplit, row.vs_unsplit_interval)
            if row.vs_unsplit_interval
            else f"{row.vs_unsplit:.2f}",
            str(row.rpc_count),
            format_bytes(row.bytes_sent),
            format_bytes(row.bytes_received),
            row.worker_sees,
        )
        for row in ladder.stages
    ]
    rows += [
        (unsplit_name(dtype), format_latency(latency), MISSING, MISSING, MISSING, MISSING, MISSING,
         "not split")
        for dtype, latency in ladder.unsplit.items()
    ]  # fmt: skip
    return Table(
        "Latency: median with its interval. Ratios: medians of paired rounds with 95% intervals.",
        ("stage", "latency", "speed-up over baseline", "over unsplit, same dtype", "RPCs", "sent",
         "received", "the worker sees, in clear"),
        rows,
        frozenset(range(1, 7)),
    )  # fmt: skip


def _seconds(ladder: Ladder) -> Figure:
    rows = [StackedRow(row.name, row.phases, format_latency(row.latency)) for row in ladder.stages]
    rows += [_unsplit_row(dtype, latency) for dtype, latency in ladder.unsplit.items()]
    table = Table(
        "Seconds by phase, medians over the rounds",
        ("stage", *PHASES),
        [
            (row.name, *(brief_seconds(row.phases[phase]) for phase in PHASES))
            for row in ladder.stages
        ],
        frozenset(range(1, 1 + len(PHASES))),
    )
    told = [f"{row.name}: {format_latency(row.latency)}" for row in ladder.stages]
    chart = stacked_bars(
        rows,
        Words("latency-chart", "Latency by phase", "; ".join(told)),
        unit="one forward pass",
        form=brief_seconds,
    )
    return Figure(chart, "Where the time goes, in seconds.", ladder.command, table)


def _unsplit_row(dtype: str, latency: Latency) -> StackedRow:
    return StackedRow(unsplit_name(dtype), {"unsplit": latency["median"]}, format_latency(latency))


def _shares(ladder: Ladder) -> Figure:
    rows = []
    for row in ladder.stages:
        total = sum(row.phases.values()) or 1.0
        rows.append(StackedRow(row.name, {name: part / total for name, part in row.phases.items()}))
    table = Table(
        "Shares by phase",
        ("stage", *PHASES),
        [(row.label, *(f"{row.parts[phase]:.1%}" for phase in PHASES)) for row in rows],
        frozenset(range(1, 1 + len(PHASES))),
    )
    told = [f"{row.label}: {_most(row.parts)}" for row in rows]
    chart = stacked_bars(
        rows,
        Words("shares-chart", "Shares by phase", "; ".join(told)),
        unit="of a forward pass",
        form=lambda share: f"{share:.0%}",
    )
    return Figure(chart, "The same, as shares of each stage's time.", ladder.command, table)


def _most(shares: Mapping[str, float]) -> str:
    name = max(shares, key=lambda name: shares[name])
    return f"mostly {name} ({shares[name]:.0%})"


def _speedup_row(row: LadderStage) -> IntervalRow:
    value = row.vs_baseline or 1.0
    interval = row.vs_baseline_interval
    others = {} if row.forecast is None else {"two": row.forecast}
    low, high = (interval["low"], interval["high"]) if interval else (value, value)
    return IntervalRow(row.name, value, low, high, "one", _note(row), others)


def _note(row: LadderStage) -> str:
    return f"{row.vs_baseline:.3g}x, forecast {_forecast(row)}"


def _speedup(row: LadderStage) -> str:
    if row.vs_baseline_interval is None:
        return f"{row.vs_baseline:.2f}x"
    return format_ratio(row.vs_baseline, row.vs_baseline_interval, "x")


def _forecast(row: LadderStage) -> str:
    return MISSING if row.forecast is None else f"{row.forecast:g}x"
