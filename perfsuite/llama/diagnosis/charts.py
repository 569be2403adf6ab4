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
from perfsuite.llama.diagnosis.result import Diagnosis, PredictionRow
from perfsuite.llama.forecast import CLAIMED_SHARES
from perfsuite.llama.results import PHASES
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


def _about(result: Diagnosis) -> str:
    return f"{result['model']}, {result['tokens']:,} tokens"


def _transport(result: Diagnosis) -> str:
    curves = {
        f"{road}, {how.replace('_', ' ')}": list(
            zip(found[how]["sent"]["bytes"], found[how]["sent"]["round_trip_s"], strict=True)
        )
        for road, found in result["transport"].items()
        for how in ("back_to_back", "between_sweeps")
    }
    said = "Seconds of one call over the bytes that it sends"
    return lines(
        curves,
        Words("transport", "Round trip by payload", said),
        x_unit="payload sent (logarithmic)",
        y_unit="round trip (logarithmic)",
        x_form=size,
        y_form=brief_seconds,
    )


def _breakdown(result: Diagnosis) -> str:
    rows = [StackedRow("claimed by the analysis", _percent(CLAIMED_SHARES))]
    rows += [
        StackedRow(stage["name"], _percent(stage["phases_s"]), brief_seconds(stage["measured_s"]))
        for stage in result["stages"]
    ]
    said = "; ".join(f"{row.label}: {_spoken(row.parts)}" for row in rows)
    return stacked_bars(
        rows,
        Words("breakdown", "Where the time goes", said),
        unit=f"share of a forward pass (%), {_about(result)}",
        form=lambda share: f"{share:.0f}",
    )


def _percent(parts: Mapping[str, float]) -> dict[str, float]:
    total = sum(parts.values()) or 1.0
    return {phase: 100 * parts.get(phase, 0.0) / total for phase in PHASES}


def _spoken(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{phase} {share:.0f}%" for phase, share in parts.items())


def _prediction(result: Diagnosis) -> str:
    naive = next(row for row in result["naive"] if row["road"] == "zmq-ipc")["concluded_s"]
    rows = [_prediction_row(row, naive[row["stage"]]) for row in result["prediction"]]
    said = "; ".join(f"{row.label}: {row.note}" for row in rows)
    return intervals(
        rows,
        Words("prediction", "Suggested, predicted, measured", said),
        unit=f"one forward pass (logarithmic), {_about(result)}",
        form=brief_seconds,
        log=True,
        key=[
            Entry("one", "measured"),
            Entry("two", "predicted by the model", hollow=True),
            Entry("six", "suggested by one 10 MB transfer", hollow=True),
        ],
    )


def _prediction_row(row: PredictionRow, naive_s: float) -> IntervalRow:
    interval = row["measured_interval_s"]
    return IntervalRow(
        row["stage"],
        row["measured_s"],
        interval["low"],
        interval["high"],
        note=f"{brief_seconds(row['measured_s'])}, model {row['error']:+.1%}",
        others={"two": row["predicted_s"], "six": naive_s},
    )


_CHARTS: Mapping[str, Callable[[Diagnosis], str]] = {
    "transport": _transport,
    "breakdown": _breakdown,
    "prediction": _prediction,
}
