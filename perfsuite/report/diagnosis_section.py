"""The diagnosis on the page: what a byte costs on each transport, whether the model explains it all, what if."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from perfsuite.charts import Entry, IntervalRow, Words, intervals, lines
from perfsuite.llama.diagnosis.charts import prediction_chart
from perfsuite.llama.diagnosis.report import bound, gain, judgement, predictions, projected
from perfsuite.llama.diagnosis.result import HOW, Diagnosis, Projected
from perfsuite.render.blocks import Note, Row, Table, columns
from perfsuite.report.parts import Figure, Section
from perfsuite.units import brief_seconds, size

Routes: TypeAlias = Mapping[str, Sequence[tuple[float, float]]]
"""Points of a curve by the transport's name, the smallest payload first."""

_WORDS = {
    "hot": "Calls one after the other: code and payload are still in the caches.",
    "cold": "Calls as in a forward pass: both sides walked through memory in between.",
}


def transport_section(diagnosis: Diagnosis) -> Section | None:
    """Seconds and throughput over size, per transport; None where none was measured."""
    found = {how: _sent(diagnosis, how) for how in HOW}
    measured = {how: routes for how, routes in found.items() if routes}
    if not measured:
        return None
    figures = []
    for how, routes in measured.items():
        title = f"Round trip by size, {how} caches"
        words = Words(f"{how}-chart", title, _largest(routes, brief_seconds))
        chart = _lines(routes, words, "round trip", brief_seconds)
        figures.append(Figure(chart, _WORDS[how], diagnosis.command, _table(routes)))
    first = {
        route: [(sent, sent / seconds) for sent, seconds in points]
        for route, points in next(iter(measured.values())).items()
    }
    words = Words("throughput-chart", "Throughput by size", _largest(first, _rate))
    chart = _lines(first, words, "throughput", _rate)
    figures.append(Figure(chart, "The first, as throughput.", diagnosis.command))
    return Section("transports", "Transports", "Transports", figures=figures)


def _sent(diagnosis: Diagnosis, how: str) -> Routes:
    """Return each route's sizes and round trips, where there are any."""
    routes = {name: route.sent for name, route in (diagnosis.transport or {}).items() if route}
    curves = {name: sent[how].points for name, sent in routes.items() if how in sent}
    return {name: points for name, points in curves.items() if points}


def _rate(rate: float) -> str:
    return f"{size(rate)}/s"


def _largest(routes: Routes, form: Callable[[float], str]) -> str:
    """Say what each curve has for the largest payload."""
    ends = [(route, *points[-1]) for route, points in routes.items()]
    return "; ".join(f"{route}: {size(sent)}, {form(value)}" for route, sent, value in ends)


def _lines(routes: Routes, words: Words, unit: str, form: Callable[[float], str]) -> str:
    return lines(routes, words, x_unit="payload sent", y_unit=unit, x_form=size, y_form=form)


def _table(curves: Routes) -> Table:
    return Table(
        columns("transport", "sent", "round trip", "throughput"),
        [
            Row(route, size(sent), brief_seconds(seconds), _rate(sent / seconds))
            for route, points in curves.items()
            for sent, seconds in points
        ],
        "Round trips by size",
    )


def prediction_section(diagnosis: Diagnosis) -> Section | None:
    """The cost model's totals beside the measured ones; None without any."""
    if not diagnosis.prediction:
        return None
    tokens = diagnosis.token_prediction
    note = "The model's constants come from measurements of parts, never from these totals."
    caption = "The model's error is what lies between a dot and its ring."
    figure = Figure(
        prediction_chart(diagnosis), caption, diagnosis.command, predictions(diagnosis.prediction)
    )
    return Section(
        "prediction",
        "Cost model",
        "Cost model: predicted and measured",
        blocks=[
            Note(note),
            *(judgement(row) for row in diagnosis.prediction if row.bound),
            *([predictions(tokens, "one more token")] if tokens else ()),
        ],
        figures=[figure],
    )


def projection_section(diagnosis: Diagnosis) -> Section | None:
    """What a change would bring, by the cost model; None where nothing was assumed."""
    projection = diagnosis.projection
    if projection is None or not projection.stages:
        return None
    now = {one.stage: one.measured_s for one in diagnosis.prediction}
    rows = [(one, now.get(one.name)) for one in projection.stages]
    told = "; ".join(
        f"{one.name}: projected {brief_seconds(one.projected_s)}, gain {gain(measured, one.projected_s)}"
        for one, measured in rows
    )
    chart = intervals(
        [_projected_row(one, measured) for one, measured in rows],
        Words("what-if-chart", "Projected and measured seconds", told),
        unit="one forward pass (logarithmic)",
        form=brief_seconds,
        log=True,
        key=[Entry("one", "projected"), Entry("six", "measured now", hollow=True)],
    )
    notes = [Note("A projection of the cost model, not a measurement.")]
    if projection.source:
        notes.append(Note(f"{bound(projection)}."))
    table = projected(diagnosis, projection)
    return Section(
        "what-if",
        "What if",
        f"What if: {', '.join(projection.assumed)}",
        blocks=notes,
        figures=[Figure(chart, "Projected, beside what was measured.", diagnosis.command, table)],
    )


def _projected_row(one: Projected, measured: float | None) -> IntervalRow:
    low, high = sorted((one.projected_s, measured or one.projected_s))
    note = f"{brief_seconds(one.projected_s)}, {gain(measured, one.projected_s)}"
    others = {} if measured is None else {"six": measured}
    return IntervalRow(one.name, one.projected_s, low, high, "one", note, others)
