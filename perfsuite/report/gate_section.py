"""The gate's verdicts on the page, each with its interval and what was allowed."""

from __future__ import annotations

from perfsuite.charts.drawing import Entry
from perfsuite.charts.intervals import IntervalRow, intervals
from perfsuite.charts.markup import Markup
from perfsuite.report import parts
from perfsuite.report.inputs import GateReport, Subject
from perfsuite.report.parts import MISSING, Table

_STYLES = {"regression": "bad", "pass": "good", "inconclusive": "unsure", "improved": "better"}
_COMMAND = "pytest perfsuite/test_latency.py --perf-report gate.json"


def gate_section(report: GateReport | None) -> Markup:
    """The last run of the gate."""
    title = "Verdicts"
    if report is None or not report.subjects:
        return parts.section(
            "verdicts",
            title,
            parts.missing("No verdicts were given.", f"{_COMMAND}; --gate gate.json"),
        )
    judged = [one for one in report.subjects if one.change is not None and one.interval is not None]
    chart = None
    if judged:
        chart = parts.figures(
            parts.figure(
                _chart(judged),
                "Change against the stored baseline with its interval; the band is what noise may do.",
                report.command,
            )
        )
    return parts.section("verdicts", title, parts.data_table(_table(report)), chart)


def _chart(subjects: list[Subject]) -> Markup:
    present = dict.fromkeys(one.verdict for one in subjects)
    return intervals(
        [_row(one) for one in subjects],
        title="Change against the baseline",
        description="; ".join(f"{one.name}: {one.verdict}, {_change(one)}" for one in subjects),
        unit="change of the ratio to the yardstick",
        form=lambda value: f"{value - 1:+.0%}",
        zero=1.0,
        key=[
            *(Entry(_STYLES.get(verdict, "six"), verdict) for verdict in present),
            Entry("band", "margin"),
        ],
    )


def _row(one: Subject) -> IntervalRow:
    value = one.change or 1.0
    low, high = one.interval or (value, value)
    band = (1 / (1 + one.margin), 1 + one.margin) if one.margin is not None else None
    style = _STYLES.get(one.verdict, "six")
    return IntervalRow(
        one.name, value, low, high, style, f"{one.verdict}, {value - 1:+.1%}", band=band
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
