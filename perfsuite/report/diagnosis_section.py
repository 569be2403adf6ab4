"""The diagnosis on the page: what a byte costs on each transport, whether the model explains it all, what if."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perfsuite.charts import Entry, IntervalRow, Words, intervals, lines
from perfsuite.llama.results import PHASES
from perfsuite.report.diagnosis import Curve, Diagnosis, Predicted, Projected
from perfsuite.report.parts import MISSING, Figure, Section, Table
from perfsuite.units import brief_seconds, size

_WORDS = {
    "back_to_back": "Calls one after the other: code and payload are still in the caches.",
    "between_sweeps": "Calls as in a forward pass: both sides walked through memory in between.",
}


def transport_section(diagnosis: Diagnosis) -> Section | None:
    """Seconds and throughput over size, per transport; None where none was measured."""
    measured = {
        how: [one for one in found if one.points] for how, found in diagnosis.curves.items()
    }
    curves = {how: found for how, found in measured.items() if found}
    if not curves:
        return None
    figures = []
    for how, found in curves.items():
        title = f"Round trip by size, {how.replace('_', ' ')}"
        words = Words(f"{how.replace('_', '-')}-chart", title, _largest(found, brief_seconds))
        chart = _lines(found, words, "round trip", brief_seconds)
        figures.append(Figure(chart, _WORDS[how], diagnosis.command, _table(found)))
    first = [_throughput(curve) for curve in next(iter(curves.values()))]
    words = Words("throughput-chart", "Throughput by size", _largest(first, _rate))
    chart = _lines(first, words, "throughput", _rate)
    figures.append(Figure(chart, "The first, as throughput.", diagnosis.command))
    return Section("transports", "Transports", "Transports", figures=figures)


def _throughput(curve: Curve) -> Curve:
    return Curve(curve.road, tuple((sent, sent / seconds) for sent, seconds in curve.points))


def _rate(rate: float) -> str:
    return f"{size(rate)}/s"


def _largest(curves: Sequence[Curve], form: Callable[[float], str]) -> str:
    """Say what each curve has for the largest payload."""
    ends = [(curve.road, *curve.points[-1]) for curve in curves]
    return "; ".join(f"{road}: {size(sent)}, {form(value)}" for road, sent, value in ends)


def _lines(curves: Sequence[Curve], words: Words, unit: str, form: Callable[[float], str]) -> str:
    drawn = {curve.road: curve.points for curve in curves}
    return lines(drawn, words, x_unit="payload sent", y_unit=unit, x_form=size, y_form=form)


def _table(curves: Sequence[Curve]) -> Table:
    return Table(
        "Round trips by size",
        ("transport", "sent", "round trip", "throughput"),
        [
            (curve.road, size(sent), brief_seconds(seconds), _rate(sent / seconds))
            for curve in curves
            for sent, seconds in curve.points
        ],
        frozenset({1, 2, 3}),
    )


def prediction_section(diagnosis: Diagnosis) -> Section | None:
    """The cost model's totals beside the measured ones; None without any."""
    if not diagnosis.predictions:
        return None
    told = [
        f"{one.stage}: measured {brief_seconds(one.measured_s)}, predicted "
        f"{brief_seconds(one.predicted_s)}"
        for one in diagnosis.predictions
    ]
    chart = intervals(
        [_predicted_row(one) for one in diagnosis.predictions],
        Words("prediction-chart", "Predicted and measured seconds", "; ".join(told)),
        unit="one forward pass (logarithmic)",
        form=brief_seconds,
        log=True,
        key=[Entry("one", "measured"), Entry("two", "predicted", hollow=True)],
    )
    table = Table(
        "Predicted and measured",
        ("stage", "predicted", "measured", "error"),
        [
            (
                one.stage,
                brief_seconds(one.predicted_s),
                brief_seconds(one.measured_s),
                f"{one.error:+.1%}",
            )
            for one in diagnosis.predictions
        ],
        frozenset({1, 2, 3}),
    )
    note = "The model's constants come from measurements of parts, never from these totals."
    caption = "The line between both is the error."
    return Section(
        "prediction",
        "Cost model",
        "Cost model: predicted and measured",
        notes=[note],
        figures=[Figure(chart, caption, diagnosis.command, table)],
    )


def _predicted_row(one: Predicted) -> IntervalRow:
    low, high = sorted((one.predicted_s, one.measured_s))
    note = f"{brief_seconds(one.measured_s)}, error {one.error:+.1%}"
    return IntervalRow(one.stage, one.measured_s, low, high, "one", note, {"two": one.predicted_s})


def projection_section(diagnosis: Diagnosis) -> Section | None:
    """What a change would bring, by the cost model; None where nothing was assumed."""
    projection = diagnosis.projection
    if projection is None or not projection.stages:
        return None
    now = {one.stage: one.measured_s for one in diagnosis.predictions}
    rows = [(one, now.get(one.stage)) for one in projection.stages]
    told = "; ".join(
        f"{one.stage}: projected {brief_seconds(one.projected_s)}, gain {_gain(one, measured)}"
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
    table = Table(
        "Projected, by phase",
        ("stage", "now", "projected", "gain", "RPCs", *PHASES, "bound by"),
        [
            (
                one.stage,
                MISSING if measured is None else brief_seconds(measured),
                brief_seconds(one.projected_s),
                _gain(one, measured),
                str(one.rpc_count),
                *(brief_seconds(one.phases[phase]) for phase in PHASES),
                one.bound,
            )
            for one, measured in rows
        ],
        frozenset(range(1, 5 + len(PHASES))),
    )
    notes = ["A projection of the cost model, not a measurement."]
    if projection.source:
        notes.append(
            f"{projection.title}: published peaks ({projection.source}); a bound from below: launches, "
            "and what kernels reach of a peak, come on top."
        )
    caption = "Projected, beside what was measured."
    return Section(
        "what-if",
        "What if",
        f"What if: {', '.join(projection.assumed)}",
        notes=notes,
        figures=[Figure(chart, caption, diagnosis.command, table)],
    )


def _projected_row(one: Projected, measured: float | None) -> IntervalRow:
    low, high = sorted((one.projected_s, measured or one.projected_s))
    note = f"{brief_seconds(one.projected_s)}, {_gain(one, measured)}"
    others = {} if measured is None else {"six": measured}
    return IntervalRow(one.stage, one.projected_s, low, high, "one", note, others)


def _gain(one: Projected, measured: float | None) -> str:
    return MISSING if measured is None else f"{measured / one.projected_s:.1f}x"
