"""The diagnosis on the page: what a byte costs on each transport, and whether the model explains it all."""

from __future__ import annotations

from collections.abc import Sequence

from perfsuite.charts import units
from perfsuite.charts.drawing import Entry
from perfsuite.charts.intervals import IntervalRow, intervals
from perfsuite.charts.lines import Line, lines
from perfsuite.charts.markup import Markup
from perfsuite.report import parts
from perfsuite.report.diagnosis import Curve, Diagnosis, Predicted
from perfsuite.report.parts import Table

_WORDS = {
    "back_to_back": "Calls one after the other: code and payload are still in the caches.",
    "between_sweeps": "Calls as in a forward pass: both sides walked through memory in between.",
}
_COMMAND = "perfsuite diagnose --json diagnose.json; --diagnose diagnose.json"


def transport_section(diagnosis: Diagnosis | None) -> Markup:
    """Seconds and throughput over size, per transport."""
    title = "Transports"
    curves = _with_points(diagnosis)
    if diagnosis is None or not curves:
        return parts.section(
            "transports", title, parts.missing("No transport was diagnosed.", _COMMAND)
        )
    figures = [
        parts.figure(_seconds(how, found), _WORDS[how], diagnosis.command, _table(found))
        for how, found in curves.items()
    ]
    throughput = lines(
        [
            Line(curve.road, [(size, size / seconds) for size, seconds in curve.points])
            for curve in next(iter(curves.values()))
        ],
        title="Throughput by size",
        description="Bytes per second over the bytes that are sent",
        x_unit="payload sent",
        y_unit="throughput",
        x_form=units.size,
        y_form=lambda rate: f"{units.size(rate)}/s",
    )
    figures.append(parts.figure(throughput, "The first, as throughput.", diagnosis.command))
    return parts.section("transports", title, parts.figures(*figures))


def _with_points(diagnosis: Diagnosis | None) -> dict[str, list[Curve]]:
    found = diagnosis.curves if diagnosis else {}
    kept = {how: [curve for curve in curves if curve.points] for how, curves in found.items()}
    return {how: curves for how, curves in kept.items() if curves}


def _seconds(how: str, curves: Sequence[Curve]) -> Markup:
    return lines(
        [Line(curve.road, curve.points) for curve in curves],
        title=f"Round trip by size, {how.replace('_', ' ')}",
        description="; ".join(
            f"{curve.road}: {units.size(size)} in {units.seconds(seconds)}"
            for curve in curves
            for size, seconds in curve.points[-1:]
        ),
        x_unit="payload sent",
        y_unit="round trip",
        x_form=units.size,
        y_form=units.seconds,
    )


def _table(curves: Sequence[Curve]) -> Table:
    return Table(
        "Round trips by size",
        ("transport", "sent", "round trip", "throughput"),
        [
            (
                curve.road,
                units.size(size),
                units.seconds(seconds),
                f"{units.size(size / seconds)}/s",
            )
            for curve in curves
            for size, seconds in curve.points
        ],
        frozenset({1, 2, 3}),
    )


def prediction_section(diagnosis: Diagnosis | None) -> Markup:
    """The cost model's totals beside the measured ones."""
    title = "Cost model: predicted and measured"
    if diagnosis is None or not diagnosis.predictions:
        return parts.section(
            "prediction", title, parts.missing("No prediction was given.", _COMMAND)
        )
    chart = intervals(
        [_row(one) for one in diagnosis.predictions],
        title="Predicted and measured seconds",
        description="; ".join(
            f"{one.stage}: measured {units.seconds(one.measured_s)}, predicted "
            f"{units.seconds(one.predicted_s)}"
            for one in diagnosis.predictions
        ),
        unit="one forward pass (logarithmic)",
        form=units.seconds,
        log=True,
        key=[Entry("one", "measured"), Entry("hollow two", "predicted")],
    )
    table = Table(
        "Predicted and measured",
        ("stage", "predicted", "measured", "error"),
        [
            (
                one.stage,
                units.seconds(one.predicted_s),
                units.seconds(one.measured_s),
                f"{one.error:+.1%}",
            )
            for one in diagnosis.predictions
        ],
        frozenset({1, 2, 3}),
    )
    return parts.section(
        "prediction",
        title,
        parts.note(
            "The model's constants come from measurements of parts, never from these totals."
        ),
        parts.figures(
            parts.figure(chart, "The line between both is the error.", diagnosis.command, table)
        ),
    )


def _row(one: Predicted) -> IntervalRow:
    low, high = sorted((one.predicted_s, one.measured_s))
    note = f"{units.seconds(one.measured_s)}, error {one.error:+.1%}"
    return IntervalRow(one.stage, one.measured_s, low, high, "one", note, {"two": one.predicted_s})
