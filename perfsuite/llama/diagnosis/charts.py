"""The diagnosis as pictures: SVG files, for documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from perfsuite.charts import (
    Entry,
    IntervalRow,
    StackedRow,
    Words,
    intervals,
    lines,
    stacked_bars,
    standalone,
)
from perfsuite.errors import UsageError
from perfsuite.files import write_text
from perfsuite.llama.diagnosis.result import Diagnosis, Prediction
from perfsuite.llama.forecast import CLAIMED_SHARES
from perfsuite.llama.results import PHASES
from perfsuite.schema import Interval
from perfsuite.units import brief_seconds, size


def check_drawable(folder: Path) -> None:
    """Make the folder of the charts. Raises UsageError before a run when that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--chart {folder}: cannot be made: {error.strerror}") from error


def draw_charts(result: Diagnosis, folder: Path) -> None:
    """Write the charts into ``folder``. Raises UsageError when one cannot be written."""
    for name, draw in _CHARTS.items():
        write_text(folder / f"{name}.svg", standalone(draw(result)), option="--chart ")


def _titled(result: Diagnosis, title: str) -> str:
    return f"{title}: {result.model}, {result.tokens:,} tokens" if result.model else title


def _transport(result: Diagnosis) -> str:
    curves = {
        f"{route}, {how}": curve.points
        for route, found in (result.transport or {}).items()
        for how, curve in (found.sent if found else {}).items()
    }
    said = "Seconds of one call over the bytes that it sends"
    return lines(
        curves,
        Words("transport", _titled(result, "Round trip by payload"), said),
        x_unit="payload sent (logarithmic)",
        y_unit="round trip (logarithmic)",
        x_form=size,
        y_form=brief_seconds,
    )


def _breakdown(result: Diagnosis) -> str:
    rows = [StackedRow("claimed by the analysis", _percent(CLAIMED_SHARES))]
    rows += [
        StackedRow(stage.name, _percent(stage.phases_s), brief_seconds(stage.measured_s))
        for stage in result.stages
    ]
    said = "; ".join(f"{row.label}: {_spoken(row.parts)}" for row in rows)
    return stacked_bars(
        rows,
        Words("breakdown", _titled(result, "Where the time goes"), said),
        unit="share of a forward pass (%)",
        form=lambda share: f"{share:.0f}",
    )


def _percent(parts: Mapping[str, float]) -> dict[str, float]:
    total = sum(parts.values()) or 1.0
    return {phase: 100 * parts.get(phase, 0.0) / total for phase in PHASES}


def _spoken(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{phase} {share:.0f}%" for phase, share in parts.items())


def prediction_chart(result: Diagnosis) -> str:
    """What was measured, what the model predicts, and what a single transfer suggests, where that is known."""
    naive = next((row.concluded_s for row in result.naive if row.route == "zmq-ipc"), {})
    rows = [_prediction_row(row, naive) for row in result.prediction]
    said = "; ".join(f"{row.label}: {row.note}" for row in rows)
    suggested = [Entry("six", "suggested by one 10 MB transfer", hollow=True)] if naive else []
    return intervals(
        rows,
        Words("prediction-chart", _titled(result, "Suggested, predicted, measured"), said),
        unit="one forward pass (logarithmic)",
        form=brief_seconds,
        log=True,
        key=[
            Entry("one", "measured"),
            Entry("two", "predicted by the model", hollow=True),
            *suggested,
        ],
    )


def _prediction_row(row: Prediction, naive: Mapping[str, float]) -> IntervalRow:
    interval = row.measured_interval_s or Interval(row.measured_s, row.measured_s)
    others = {"two": row.predicted_s}
    if row.stage in naive:
        others["six"] = naive[row.stage]
    return IntervalRow(
        row.stage,
        row.measured_s,
        interval.low,
        interval.high,
        note=f"{brief_seconds(row.measured_s)}, model {row.error:+.1%}",
        others=others,
    )


_CHARTS: Mapping[str, Callable[[Diagnosis], str]] = {
    "transport": _transport,
    "breakdown": _breakdown,
    "prediction": prediction_chart,
}
