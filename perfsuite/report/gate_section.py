"""The gate's verdicts on the page, each with its interval and what was allowed."""

from __future__ import annotations

from perfsuite.charts import Entry, IntervalRow, Words, intervals
from perfsuite.report.inputs import GateReport, Subject
from perfsuite.report.parts import MISSING, Figure, Section, Table

_COLOURS = {"regression": "bad", "pass": "good", "inconclusive": "unsure", "improved": "better"}


def gate_section(report: GateReport) -> Section | None:
    """The last run of the gate; None where nothing was gated."""
    if not report.subjects:
        return None
    judged = [one for one in report.subjects if one.change is not None and one.interval is not None]
    caption = "Change against the stored baseline with its interval; the band is what noise may do."
    return Section(
        "verdicts",
        "Verdicts",
        "Verdicts",
        tables=[_table(report)],
        figures=[Figure(_chart(judged), caption, report.command)] if judged else [],
    )


def _chart(subjects: list[Subject]) -> str:
    present = dict.fromkeys(one.verdict for one in subjects)
    told = "; ".join(f"{one.name}: {one.verdict}, {_change(one)}" for one in subjects)
    return intervals(
        [_row(one) for one in subjects],
        Words("verdicts-chart", "Change against the baseline", told),
        unit="change of the ratio to the yardstick",
        form=lambda value: f"{value - 1:+.0%}",
        zero=1.0,
        key=[
            *(Entry(_COLOURS.get(verdict, "six"), verdict) for verdict in present),
            Entry("rule", "margin"),
        ],
    )


def _row(one: Subject) -> IntervalRow:
    value = one.change or 1.0
    low, high = one.interval or (value, value)
    band = (1 / (1 + one.margin), 1 + one.margin) if one.margin is not None else None
    colour = _COLOURS.get(one.verdict, "six")
    return IntervalRow(
        one.name, value, low, high, colour, f"{one.verdict}, {value - 1:+.1%}", band=band
    )


def _table(report: GateReport) -> Table:
    return Table(
        "One row per gated subject",
        (
            "subject",
            "verdict",
            "latency",
            "over its yardstick",
            "change",
            "margin",
            "processes",
            "why",
        ),
        [
            (
                one.name,
                one.verdict,
                MISSING if one.latency_ms is None else f"{one.latency_ms:.4g} ms",
                MISSING if one.ratio is None else f"{one.ratio:.3f}",
                _change(one),
                MISSING if one.margin is None else f"{one.margin:.1%}",
                str(one.processes or MISSING),
                one.reason + (f"; grew most: {one.grew_most}" if one.grew_most else ""),
            )
            for one in report.subjects
        ],
        frozenset({2, 3, 4, 5, 6}),
    )


def _change(one: Subject) -> str:
    if one.change is None or one.interval is None:
        return MISSING
    low, high = one.interval
    return f"{one.change - 1:+.1%} [{low - 1:+.1%}, {high - 1:+.1%}]"
