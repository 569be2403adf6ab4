"""The ladder on the page: where the time goes, and what each stage brought."""

from __future__ import annotations

from collections.abc import Mapping

from perfsuite.charts import Entry, IntervalRow, StackedRow, Words, intervals, stacked_bars
from perfsuite.llama.results import PHASES, Ladder, StageRow
from perfsuite.llama.rows import unsplit_name
from perfsuite.llama.table import (
    forecast,
    format_latency,
    format_ratio,
    ladder_blocks,
    phases,
)
from perfsuite.render.blocks import Heading, Note, Row, Table, columns
from perfsuite.report.parts import Figure, Section
from perfsuite.units import brief_seconds


def ladder_section(ladder: Ladder) -> Section | None:
    """The stages side by side; None without any."""
    if not ladder.stages:
        return None
    # These shares are drawn, with their figures below, and the page's title is the heading.
    drawn = phases(ladder)
    shown = [one for one in ladder_blocks(ladder) if not isinstance(one, Heading) and one != drawn]
    return Section(
        "ladder",
        "Ladder",
        "The ladder",
        blocks=shown,
        figures=[_seconds(ladder), _shares(ladder)],
    )


def speedup_section(ladder: Ladder) -> Section | None:
    """What was measured beside what the analysis forecast; None where the baseline was not run."""
    rows = [row for row in ladder.stages if row.vs_baseline is not None]
    if not rows:
        return None
    measured = {
        row.name: format_ratio(
            row.vs_baseline, row.vs_baseline_interval, "x", several=ladder.rounds != 1
        )
        for row in rows
    }
    told = [f"{row.name}: {measured[row.name]}, forecast {forecast(row)}" for row in rows]
    chart = intervals(
        [_speedup_row(row) for row in rows],
        Words("speedup-chart", "Speed-up over baseline", "; ".join(told)),
        unit="times as fast as baseline (logarithmic)",
        form=lambda value: f"{value:.3g}x",
        log=True,
        key=[Entry("one", "measured"), Entry("two", "forecast of the analysis", hollow=True)],
    )
    table = Table(
        columns("stage", "measured", "forecast"),
        [Row(row.name, measured[row.name], forecast(row)) for row in rows],
        "Speed-up over baseline",
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
        blocks=[Note(note)],
        figures=[Figure(chart, caption, ladder.command, table)],
    )


def _seconds(ladder: Ladder) -> Figure:
    several = ladder.rounds != 1
    rows = [
        StackedRow(row.name, row.phases_s, format_latency(row.latency_s, interval=several))
        for row in ladder.stages
    ]
    told = [f"{row.label}: {row.note}" for row in rows]
    for dtype, unsplit in ladder.unsplit.items():
        note = format_latency(unsplit.latency_s, interval=several)
        rows.append(StackedRow(unsplit_name(dtype), {"unsplit": unsplit.latency_s.median}, note))
    table = Table(
        columns("stage", *PHASES),
        [
            Row(row.name, *(brief_seconds(row.phases_s[phase]) for phase in PHASES))
            for row in ladder.stages
        ],
        "Seconds by phase, medians over the rounds",
    )
    chart = stacked_bars(
        rows,
        Words("latency-chart", "Latency by phase", "; ".join(told)),
        unit="one forward pass",
        form=brief_seconds,
    )
    return Figure(chart, "Where the time goes, in seconds.", ladder.command, table)


def _shares(ladder: Ladder) -> Figure:
    rows = []
    for row in ladder.stages:
        total = sum(row.phases_s.values()) or 1.0
        rows.append(
            StackedRow(row.name, {name: part / total for name, part in row.phases_s.items()})
        )
    told = [f"{row.label}: {_most(row.parts)}" for row in rows]
    chart = stacked_bars(
        rows,
        Words("shares-chart", "Shares by phase", "; ".join(told)),
        unit="of a forward pass",
        form=lambda share: f"{share:.0%}",
    )
    caption = "The same, as shares of each stage's time."
    return Figure(chart, caption, ladder.command, phases(ladder).table())


def _most(shares: Mapping[str, float]) -> str:
    name = max(shares, key=lambda name: shares[name])
    return f"mostly {name} ({shares[name]:.0%})"


def _speedup_row(row: StageRow) -> IntervalRow:
    value = row.vs_baseline or 1.0
    interval = row.vs_baseline_interval
    others = {} if row.forecast_speedup is None else {"two": row.forecast_speedup}
    low, high = (interval.low, interval.high) if interval else (value, value)
    note = f"{row.vs_baseline:.3g}x, forecast {forecast(row)}"
    return IntervalRow(row.name, value, low, high, "one", note, others)
