"""The diagnosis on the page: what a byte costs on each transport, and whether the model explains it all."""

from __future__ import annotations

from perfsuite.charts import units
from perfsuite.charts.drawing import Entry
from perfsuite.charts.intervals import IntervalRow, intervals
from perfsuite.charts.lines import Line, lines
from perfsuite.charts.markup import Markup
from perfsuite.report import parts
from perfsuite.report.diagnosis import Diagnosis, Predicted
from perfsuite.report.parts import Table
from perfsuite.table import format_bytes

_COMMAND = "perfsuite diagnose --json diagnose.json; --diagnose diagnose.json"


def transport_section(diagnosis: Diagnosis | None) -> Markup:
    """Seconds and throughput over size, per transport."""
    title = "Transports"
    roads = [road for road in diagnosis.roads if road.trips] if diagnosis else []
    if diagnosis is None or not roads:
        return parts.section(
            "transports", title, parts.missing("No transport was diagnosed.", _COMMAND)
        )
    table = Table(
        "Round trips by size",
        ("transport", "size", "round trip", "throughput"),
        [
            (
                road.name,
                format_bytes(int(trip.size)),
                units.seconds(trip.seconds),
                f"{format_bytes(int(trip.size / trip.seconds))}/s",
            )
            for road in roads
            for trip in road.trips
        ],
        frozenset({1, 2, 3}),
    )
    names = ", ".join(road.name for road in roads)
    time = lines(
        [Line(road.name, [(trip.size, trip.seconds) for trip in road.trips]) for road in roads],
        title="Round trip by size",
        description=f"Seconds of a round trip over its bytes: {names}",
        x_unit="payload",
        y_unit="round trip",
        x_form=units.size,
        y_form=units.seconds,
    )
    throughput = lines(
        [
            Line(road.name, [(trip.size, trip.size / trip.seconds) for trip in road.trips])
            for road in roads
        ],
        title="Throughput by size",
        description=f"Bytes per second over the bytes of a round trip: {names}",
        x_unit="payload",
        y_unit="throughput",
        x_form=units.size,
        y_form=lambda rate: f"{units.size(rate)}/s",
    )
    return parts.section(
        "transports",
        title,
        parts.figures(
            parts.figure(time, "What a round trip takes.", diagnosis.command, table),
            parts.figure(throughput, "What that is per second.", diagnosis.command),
        ),
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
