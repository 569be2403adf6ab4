"""The diagnosis as pictures: SVG files, for documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from perfsuite.charts import units
from perfsuite.charts.drawing import Entry, standalone
from perfsuite.charts.intervals import IntervalRow, intervals
from perfsuite.charts.lines import Line, lines
from perfsuite.charts.markup import Markup
from perfsuite.charts.stacked_bars import StackedRow, stacked_bars
from perfsuite.errors import UsageError
from perfsuite.files import write_text
from perfsuite.llama.diagnosis.result import Diagnosis, PredictionRow
from perfsuite.llama.forecast import CLAIMED_SHARES
from perfsuite.llama.results import PHASES


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


def _about(result: Diagnosis) -> str:
    return f"{result['model']}, {result['tokens']:,} tokens"


def _transport(result: Diagnosis) -> Markup:
    curves = [
        Line(
            f"{road}, {how.replace('_', ' ')}",
            tuple(
                zip(found[how]["sent"]["bytes"], found[how]["sent"]["round_trip_s"], strict=True)
            ),
        )
        for road, found in result["transport"].items()
        for how in ("back_to_back", "between_sweeps")
    ]
    return lines(
        curves,
        title="Round trip by payload",
        description="Seconds of one call over the bytes that it sends",
        x_unit="payload sent (logarithmic)",
        y_unit="round trip (logarithmic)",
        x_form=units.size,
        y_form=units.seconds,
    )


def _breakdown(result: Diagnosis) -> Markup:
    rows = [StackedRow("claimed by the analysis", _percent(CLAIMED_SHARES))]
    rows += [
        StackedRow(stage["name"], _percent(stage["phases_s"]), units.seconds(stage["measured_s"]))
        for stage in result["stages"]
    ]
    return stacked_bars(
        rows,
        title="Where the time goes",
        description="; ".join(f"{row.label}: {_spoken(row.parts)}" for row in rows),
        unit=f"share of a forward pass (%), {_about(result)}",
        form=lambda share: f"{share:.0f}",
    )


def _percent(parts: Mapping[str, float]) -> dict[str, float]:
    total = sum(parts.values()) or 1.0
    return {phase: 100 * parts.get(phase, 0.0) / total for phase in PHASES}


def _spoken(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{phase} {share:.0f}%" for phase, share in parts.items())


def _prediction(result: Diagnosis) -> Markup:
    naive = next(row for row in result["naive"] if row["road"] == "zmq-ipc")["concluded_s"]
    rows = [_prediction_row(row, naive[row["stage"]]) for row in result["prediction"]]
    return intervals(
        rows,
        title="Suggested, predicted, measured",
        description="; ".join(f"{row.label}: {row.note}" for row in rows),
        unit=f"one forward pass (logarithmic), {_about(result)}",
        form=units.seconds,
        log=True,
        key=[
            Entry("one", "measured"),
            Entry("hollow two", "predicted by the model"),
            Entry("hollow six", "suggested by one 10 MB transfer"),
        ],
    )


def _prediction_row(row: PredictionRow, naive_s: float) -> IntervalRow:
    interval = row["measured_interval_s"]
    return IntervalRow(
        row["stage"],
        row["measured_s"],
        interval["low"],
        interval["high"],
        note=f"{units.seconds(row['measured_s'])}, model {row['error']:+.1%}",
        others={"two": row["predicted_s"], "six": naive_s},
    )


_CHARTS: Mapping[str, Callable[[Diagnosis], Markup]] = {
    "transport": _transport,
    "breakdown": _breakdown,
    "prediction": _prediction,
}
