"""A ladder beside an earlier one, of this machine or another: two runs at two times, so no verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from perfsuite.errors import UsageError
from perfsuite.llama.results import Interval, LadderResult, Latency, read_ladder
from perfsuite.llama.rows import unsplit_name
from perfsuite.llama.table import (
    MISSING,
    WIDTH,
    format_latency,
    format_machine,
    format_ratio,
    plain_table,
    print_plain,
)

Workload = tuple[str, int, str]
"""Model, tokens and device."""


@dataclass(frozen=True)
class Row:
    """What is compared of a stage, or of the unsplit model, which has no ratio to itself."""

    latency: Latency
    vs_unsplit: float | None = None
    vs_unsplit_interval: Interval | None = None


@dataclass(frozen=True)
class Earlier:
    """An earlier ladder."""

    path: Path
    workload: Workload
    rounds: int
    machine: str
    rows: dict[str, Row]

    def check(self, workload: Workload) -> None:
        """Raise UsageError unless this is a ladder of ``workload``."""
        names = ("model", "tokens", "device")
        for name, theirs, ours in zip(names, self.workload, workload, strict=True):
            if theirs != ours:
                raise UsageError(f"--against {self.path}: its {name} is {theirs!r}, not {ours!r}")


def read_earlier(path: Path) -> Earlier:
    """Read what ``--json`` has written. Raises UsageError for a file that is damaged, naming the field."""
    ladder = read_ladder(path)
    if ladder.rounds is None:
        raise UsageError(f"{path}: rounds: is missing")
    rows = {
        stage.name: Row(stage.latency, stage.vs_unsplit, stage.vs_unsplit_interval)
        for stage in ladder.stages
    }
    rows |= {unsplit_name(dtype): Row(latency) for dtype, latency in ladder.unsplit.items()}
    return Earlier(
        path,
        (ladder.model, ladder.tokens, ladder.device),
        ladder.rounds,
        format_machine(ladder.machine),
        rows,
    )


def print_against(result: LadderResult, earlier: Earlier, console: Console | None = None) -> None:
    """Print both, a line for each stage that either has."""
    now = {
        **{
            row["name"]: Row(row["latency_s"], row["vs_unsplit"], row["vs_unsplit_interval"])
            for row in result["stages"]
        },
        **{unsplit_name(dtype): Row(row["latency_s"]) for dtype, row in result["unsplit"].items()},
    }
    machine = format_machine(result["machine"])
    notes = [f"then: {earlier.path}, on {earlier.machine}"]
    if machine != earlier.machine:
        notes.append(f"now: on {machine}")
    notes.append(
        "two runs at two times: no verdict, which is for perfsuite compare; "
        "ratios to the unsplit model move less with the machine than latencies"
    )
    table = _table(now, earlier, several=result["rounds"] > 1)
    print_plain(Group(Text(), table, Text(), *map(Text, notes)), console, WIDTH)


def _table(now: dict[str, Row], earlier: Earlier, *, several: bool) -> Table:
    table = plain_table(gap=1)
    table.add_column("stage", no_wrap=True)
    for title in ("then", "now", "ratio", "over unsplit,\nthen", "over unsplit,\nnow"):
        table.add_column(title, justify="right")
    several_then = earlier.rounds > 1
    for name in dict.fromkeys((*earlier.rows, *now)):
        old, new = earlier.rows.get(name), now.get(name)
        table.add_row(
            name,
            format_latency(old.latency, interval=several_then) if old else MISSING,
            format_latency(new.latency, interval=several) if new else MISSING,
            f"{new.latency['median'] / old.latency['median']:.2f}" if old and new else MISSING,
            _ratio(old, several_then),
            _ratio(new, several),
        )
    return table


def _ratio(row: Row | None, several: bool) -> str:
    if row is None:
        return MISSING
    return format_ratio(row.vs_unsplit, row.vs_unsplit_interval, several=several)
