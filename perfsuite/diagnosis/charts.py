"""The diagnosis as pictures: SVG, for documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from perfsuite.diagnosis.report import seconds
from perfsuite.diagnosis.result import Diagnosis
from perfsuite.errors import UsageError
from perfsuite.forecast import CLAIMED_SHARES
from perfsuite.results import PHASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by eyes that do not see all colours: Okabe and Ito, Color Universal Design, 2008.
_COLOURS: Mapping[str, str] = {
    "serialize": "#e69f00",
    "transport": "#d55e00",
    "device": "#009e73",
    "deserialize": "#cc79a7",
    "trusted": "#0072b2",
}
_ROADS: Mapping[str, str] = {"zmq-tcp": "#d55e00", "zmq-ipc": "#e69f00", "shared-memory": "#009e73"}
_SIZE = (8.0, 4.5)  # inches
_SALT = "split-llama"  # of the identifiers in an SVG: the same picture is the same file


def check_drawable(folder: Path) -> None:
    """Refuse before a run what could not be drawn after it.

    Raises:
        UsageError: if the folder cannot be made, or the plotting library is missing.
    """
    if util.find_spec("matplotlib") is None:
        raise UsageError("--chart: needs matplotlib; pip install 'split-llama[charts]'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--chart {folder}: cannot be made: {error.strerror}") from error


def draw_charts(result: Diagnosis, folder: Path) -> list[Path]:
    """Write the charts into ``folder`` and return their files.

    Raises:
        UsageError: if one cannot be written.
    """
    return [_draw(result, folder / f"{name}.svg", plot) for name, plot in _CHARTS.items()]


def _draw(result: Diagnosis, file: Path, plot: Callable[[Diagnosis, Axes], None]) -> Path:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": _SALT,
            "svg.fonttype": "none",
        }
    ):
        figure = Figure(figsize=_SIZE, layout="constrained", facecolor="white")
        plot(result, figure.subplots())
        try:
            figure.savefig(file, metadata={"Date": None})
        except OSError as error:
            raise UsageError(f"--chart {file}: cannot be written: {error.strerror}") from error
    return file


def _transport(result: Diagnosis, axes: Axes) -> None:
    for road, found in result["transport"].items():
        for how, style in (("back_to_back", "-"), ("between_sweeps", "--")):
            sent = found[how]["sent"]
            axes.plot(
                sent["bytes"],
                [second * 1e3 for second in sent["round_trip_s"]],
                style,
                marker="o",
                markersize=3,
                color=_ROADS[road],
                label=f"{road}, {how.replace('_', ' ')}",
            )
    axes.set(xscale="log", yscale="log", xlabel="payload sent (bytes)", ylabel="round trip (ms)")
    axes.set_title("One call: what it costs warm, and as in a forward pass")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _breakdown(result: Diagnosis, axes: Axes) -> None:
    rows: list[tuple[str, Mapping[str, float]]] = [("claimed by\nthe analysis", CLAIMED_SHARES)]
    for stage in result["stages"]:
        total = sum(stage["phases_s"].values())
        spent = {phase: stage["phases_s"][phase] / total for phase in PHASES}
        rows.append((f"{stage['name']}\n{seconds(stage['measured_s'])}", spent))
    for index, (_, shares) in enumerate(rows):
        left = 0.0
        for phase in PHASES:
            share = shares.get(phase, 0.0) * 100
            axes.barh(index, share, left=left, color=_COLOURS[phase], height=0.7)
            if share >= 5:
                axes.text(
                    left + share / 2, index, f"{share:.0f}", ha="center", va="center", color="white"
                )
            left += share
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="share of a forward pass (%)")
    axes.set_title(f"Where the time goes: {result['model']}, {result['tokens']:,} tokens", pad=28)
    handles = [axes.barh(0, 0, color=_COLOURS[phase]) for phase in PHASES]
    axes.legend(
        handles, PHASES, ncols=5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )


def _prediction(result: Diagnosis, axes: Axes) -> None:
    rows = result["prediction"]
    naive = next(row for row in result["naive"] if row["road"] == "zmq-ipc")["concluded_s"]
    series = (
        ("one 10 MB transfer suggests", [naive[row["stage"]] for row in rows], "#bbbbbb"),
        ("model, from micro-measurements", [row["predicted_s"] for row in rows], "#56b4e9"),
        ("measured", [row["measured_s"] for row in rows], "#333333"),
    )
    for offset, (label, values, colour) in enumerate(series):
        places = [index + (offset - 1) * 0.27 for index in range(len(rows))]
        axes.bar(places, values, width=0.25, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(place, value * 1.04, seconds(value), ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(rows)), [row["stage"] for row in rows])
    axes.set(yscale="log", ylabel="one forward pass (s)")
    axes.set_ylim(top=axes.get_ylim()[1] * 2.5)
    axes.set_title(
        f"Suggested, predicted, measured: {result['model']}, {result['tokens']:,} tokens"
    )
    axes.legend(frameon=False, ncols=3, loc="upper center")


_CHARTS: Mapping[str, Callable[[Diagnosis, Axes], None]] = {
    "transport": _transport,
    "breakdown": _breakdown,
    "prediction": _prediction,
}
