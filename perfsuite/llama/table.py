"""The ladder as text for a terminal or a log, at most WIDTH columns wide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite import statistics
from perfsuite.llama.neighbours import told
from perfsuite.llama.results import PHASES, Interval, LadderResult, Latency, StageRow, Token
from perfsuite.llama.rows import unsplit_name

if TYPE_CHECKING:
    pass

WIDTH = 100
BAR_CELLS = 30
# Told apart by their texture where there are no colours.
GLYPHS = {"serialize": "░", "transport": "▒", "device": "█", "deserialize": "▓", "trusted": "·"}
ASCII_GLYPHS = dict(zip(GLYPHS, "-=#+.", strict=True))
STYLES = {
    "serialize": "yellow",
    "transport": "red",
    "device": "green",
    "deserialize": "magenta",
    "trusted": "blue",
}
MISSING = "-"


def print_ladder(result: LadderResult, console: Console | None = None) -> None:
    """Print ``result`` on stdout, or on ``console``: no line is wider than WIDTH columns."""
    console = console or Console(markup=False, emoji=False, highlight=False)
    glyphs = ASCII_GLYPHS if console.options.ascii_only else GLYPHS
    print_plain(render_ladder(result, glyphs), console, WIDTH)


def print_plain(content: RenderableType, console: Console | None, width: int) -> None:
    """Print ``content`` on stdout, or on ``console``: no line is wider than ``width`` columns."""
    console = console or Console(markup=False, emoji=False, highlight=False)
    # What is not a terminal has no width of its own; rich would assume 80.
    console.width = min(width, console.width) if console.is_terminal else width
    if console.is_terminal:
        console.print(content)
        return
    with console.capture() as capture:
        console.print(content)
    # A table fills its lines with spaces, which nobody wants in a log or a document.
    console.print(Text("\n".join(line.rstrip() for line in capture.get().splitlines())))


def render_ladder(result: LadderResult, glyphs: Mapping[str, str] = GLYPHS) -> RenderableType:
    """The whole ladder, for a rich console; ``glyphs`` fill the bars, one per phase."""
    gap = Text()
    tables = (_latencies(result), gap, _phases(result, glyphs), gap, _meaning(result), gap)
    return Group(_heading(result), gap, *tables, *_notes(result))


def format_latency(latency: Latency, *, interval: bool = True) -> str:
    """``1.89 [1.85, 1.90] s``: three significant digits of the median; below 1 s in ms."""
    unit, scale = ("s", 1.0) if latency["median"] >= 1.0 else ("ms", 1e3)
    digits = _decimals(latency["median"] * scale)
    median, low, high = (latency[key] * scale for key in ("median", "low", "high"))
    if not interval:
        return f"{median:.{digits}f} {unit}"
    return f"{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] {unit}"


def format_ratio(
    value: float | None, interval: Interval | None, unit: str = "", *, several: bool = True
) -> str:
    """``0.60 [0.58, 0.62]`` with ``unit`` behind the value; a dash for one that is not known.

    Of no more than one round (not ``several``) there is no interval.
    """
    if value is None or interval is None:
        return MISSING
    digits = 2 if value < 10 else 1
    low, high = interval["low"], interval["high"]
    if not several:
        return f"{value:.{digits}f}{unit}"
    return f"{value:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def format_bytes(count: int) -> str:
    """``7.52 GB``, in powers of ten: at least three significant digits."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "KB")):
        if count >= 10**power:
            value = count / 10**power
            return f"{value:.{_decimals(value)}f} {unit}"
    return f"{count} B"


def _decimals(value: float) -> int:
    """Decimals that show three significant digits of a positive ``value``."""
    return min(6, max(0, 2 - math.floor(math.log10(value)))) if value > 0 else 0


def _heading(result: LadderResult) -> Text:
    return Text(
        f"{result['model']}, {result['tokens']:,} tokens ({result['prompt']}), "
        f"{result['device']}, {result['rounds']} interleaved rounds"
    )


def _latencies(result: LadderResult) -> Table:
    several = result["rounds"] > 1
    table = plain_table()
    table.add_column("stage", no_wrap=True)
    for title in ("latency", "speed-up\nover baseline", "over unsplit,\nsame dtype",
                  "RPCs", "sent", "received"):  # fmt: skip
        table.add_column(title, justify="right")
    for row in result["stages"]:
        table.add_row(
            row["name"],
            format_latency(row["latency_s"], interval=several),
            MISSING if row["vs_baseline"] is None else f"{row['vs_baseline']:.1f}x",
            format_ratio(row["vs_unsplit"], row["vs_unsplit_interval"], several=several),
            str(row["rpc_count"]),
            format_bytes(row["bytes_sent"]),
            format_bytes(row["bytes_received"]),
        )
    for dtype, unsplit in result["unsplit"].items():
        latency = format_latency(unsplit["latency_s"], interval=several)
        table.add_row(unsplit_name(dtype), latency, style="dim")
    return table


def _phases(result: LadderResult, glyphs: Mapping[str, str]) -> Table:
    """A stacked bar per stage; the titles of the percentages are its legend."""
    table = plain_table()
    table.add_column("stage", no_wrap=True)
    table.add_column("where the time goes", no_wrap=True)
    for phase in PHASES:
        title = Text.assemble((glyphs[phase], STYLES[phase]), f"\n{phase}")
        table.add_column(title, justify="right", no_wrap=True)
    for row in result["stages"]:
        seconds = [row["phases_s"][phase] for phase in PHASES]
        total = sum(seconds) or 1.0
        percentages = [f"{value / total:.1%}" for value in seconds]
        table.add_row(row["name"], _bar(seconds, glyphs), *percentages)
    return table


def _bar(seconds: Sequence[float], glyphs: Mapping[str, str]) -> Text:
    counts = statistics.shares(seconds, BAR_CELLS)
    parts = zip(PHASES, counts, strict=True)
    return Text.assemble(*((glyphs[phase] * count, STYLES[phase]) for phase, count in parts))


def _meaning(result: LadderResult) -> Table:
    table = plain_table()
    table.add_column("stage", no_wrap=True)
    table.add_column("speed-up,\nmeasured", justify="right")
    table.add_column("speed-up,\nforecast", justify="right")
    table.add_column("next\ntoken", max_width=14)
    table.add_column("the worker sees, in clear")
    for row in result["stages"]:
        forecast = row["forecast_speedup"]
        table.add_row(
            row["name"],
            format_ratio(
                row["vs_baseline"],
                row["vs_baseline_interval"],
                "x",
                several=result["rounds"] > 1,
            ),
            MISSING if forecast is None else f"{forecast:g}x",
            _token(row["next_token"]),
            row["worker_sees"],
        )
    for dtype, unsplit in result["unsplit"].items():
        table.add_row(
            unsplit_name(dtype), "", "", _token(unsplit["next_token"]), "not split", style="dim"
        )
    return table


def _notes(result: LadderResult) -> list[Text]:
    agreement = "all contenders agree"
    if not result["next_token_agrees"]:
        agreement = "the contenders do NOT all agree (bfloat16 may decide a close call otherwise)"
    notes = {
        "next token": agreement,
        **_intervals(result),
        "forecast": "of the analysis, for a model of its own; never measured, kept to be judged",
        "kernels": _kernels(result["stages"]),
        "machine": format_machine(result["machine"]),
    }
    if result["disturbed_runs"]:
        contenders = len(result["stages"]) + len(result["unsplit"])
        notes["busy"] = told(result["disturbed_runs"], contenders * result["rounds"])
    return [Text.assemble((f"{title}: ", "bold"), note) for title, note in notes.items()]


def _intervals(result: LadderResult) -> dict[str, str]:
    if result["rounds"] == 1:
        return {"latency": "one round, so no interval is known"}
    return {
        "latency": f"median [{result['confidence']:.1%} interval, order statistics]",
        "ratios": "median of the rounds' ratios [95% interval, bootstrap over rounds]",
    }


def _kernels(rows: Sequence[StageRow]) -> str:
    """What computes on the worker, each kind once with the stages that it serves."""
    stages: dict[str, list[str]] = {}
    for row in rows:
        served = f"{row['kernels']}, {row['threads']} threads on {row['device_name']}"
        stages.setdefault(served, []).append(row["name"])
    return "; ".join(f"{', '.join(names)}: {kernels}" for kernels, names in stages.items())


def format_machine(machine: Mapping[str, object]) -> str:
    """Describe a machine by what is known of it."""
    words = {name: word for name, word in machine.items() if word}
    gpu = (
        f"{words['gpu']} (driver {words.get('driver', 'unknown')})" if "gpu" in words else "no GPU"
    )
    parts = [str(words.get("cpu", "unknown processor"))]
    parts += [f"{words[name]} {name}" for name in ("cores", "threads") if name in words]
    parts.append(gpu)
    titles = {"torch": "torch", "python": "Python", "kernel": "Linux"}
    parts += [f"{title} {words[name]}" for name, title in titles.items() if name in words]
    return ", ".join(parts)


def _token(token: Token) -> str:
    """Quoted, so that a space or a line's end can be seen."""
    return repr(token["text"])


def plain_table(gap: int = 2) -> Table:
    """Return a table of columns without lines, ``gap`` characters apart."""
    return Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
