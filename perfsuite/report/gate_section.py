"""The gate's verdicts on the page, each with its interval and what was allowed."""

from __future__ import annotations

from collections.abc import Sequence

from perfsuite.charts import Entry, IntervalRow, Words, intervals
from perfsuite.gate.reported import Report, Subject
from perfsuite.gate.views import TONES, blocks
from perfsuite.render.blocks import Column, Row, Table
from perfsuite.report.parts import Figure, Section
from perfsuite.statistics import Estimate
from perfsuite.units import change

_COLOURS = {"good": "good", "better": "better", "bad": "bad", "unsure": "unsure"}
"""Of the tones that are colours of a chart."""


def gate_section(report: Report) -> Section | None:
    """The last run of the gate; None where nothing was gated."""
    if not report.subjects:
        return None
    judged = [(one, one.change) for one in report.subjects if one.change is not None]
    caption = "Change against the stored baseline with its interval; the band is what noise may do."
    table, *notes = blocks(report.subjects)
    return Section(
        "verdicts",
        "Verdicts",
        "Verdicts",
        blocks=[table, *notes],
        figures=[Figure(_chart(judged), caption, report.command, _samples(report.subjects))]
        if judged
        else [],
    )


def _chart(judged: Sequence[tuple[Subject, Estimate]]) -> str:
    present = {one.verdict: _colour(one) for one, _ in judged}
    # As many digits as tell the axis' figures apart.
    ends = [end for _, found in judged for end in (found.low, found.high, 1.0)]
    digits = 0 if max(ends) - min(ends) > 0.05 else 1 if max(ends) - min(ends) > 0.005 else 2
    told = "; ".join(f"{one.name}: {one.verdict}, {change(found)}" for one, found in judged)
    return intervals(
        [_row(one, found) for one, found in judged],
        Words("verdicts-chart", "Change against the baseline", told),
        unit="change of the ratio to the reference",
        form=lambda value: f"{value - 1:+.{digits}%}",
        zero=1.0,
        key=[
            *(Entry(colour, verdict) for verdict, colour in present.items()),
            Entry("rule", "margin"),
        ],
    )


def _colour(one: Subject) -> str:
    return _COLOURS.get(TONES.get(one.verdict, "unsure"), "six")


def _row(one: Subject, found: Estimate) -> IntervalRow:
    band = (1 / (1 + one.margin), 1 + one.margin) if one.margin is not None else None
    note = f"{one.verdict}, {found.value - 1:+.1%}"
    return IntervalRow(one.name, found.value, found.low, found.high, _colour(one), note, band=band)


def _samples(subjects: Sequence[Subject]) -> Table:
    """What each verdict rests on."""
    heads = ("processes", "looks", "rounds left out")
    return Table(
        [
            Column("benchmark"),
            *(Column(head, figures=True) for head in heads),
            Column("grew most"),
            Column("why"),
        ],
        [
            Row(
                one.name,
                *map(str, (one.processes, one.looks, one.disturbed_rounds)),
                one.grew_most or "",
                one.reason,
            )
            for one in subjects
        ],
        "What each verdict rests on",
    )
