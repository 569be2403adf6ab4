"""A ladder beside an earlier one, of this machine or another: two runs at two times, so no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perfsuite.errors import UsageError
from perfsuite.llama.results import Ladder, StageRow, UnsplitRow, read_ladder
from perfsuite.llama.rows import unsplit_name
from perfsuite.llama.table import format_latency, format_machine, format_ratio
from perfsuite.render.blocks import MISSING, Block, Note, Row, Table, columns


def read_earlier(path: Path) -> Ladder:
    """Read what ``--json`` has written. Raises UsageError for a file that is damaged, naming the field."""
    ladder = read_ladder(path)
    if ladder.rounds is None:
        raise UsageError(f"{path}: rounds: is missing")
    return ladder


def check_alike(path: Path, earlier: Ladder, model: str, tokens: int, device: str) -> None:
    """Raise UsageError unless ``earlier``, which was read from ``path``, is a ladder of the same workload."""
    for name, ours in {"model": model, "tokens": tokens, "device": device}.items():
        theirs = getattr(earlier, name)
        if theirs != ours:
            raise UsageError(f"--against {path}: its {name} is {theirs!r}, not {ours!r}")


def against_blocks(now: Ladder, path: Path, then: Ladder) -> Iterator[Block]:
    """Yield both, a row for each stage that either has; ``then`` was read from ``path``."""
    yield _table(then, now)
    machines = [format_machine(ladder.machine) for ladder in (then, now)]
    yield Note(f"{path}, on {machines[0]}", "then")
    if machines[0] != machines[1]:
        yield Note(f"on {machines[1]}", "now")
    yield Note(
        "two runs at two times: no verdict, which is for perfsuite compare; "
        "ratios to the unsplit model move less with the machine than latencies"
    )


def _table(then: Ladder, now: Ladder) -> Table:
    old, new = _rows(then), _rows(now)
    heads = ("stage", "then", "now", "ratio", "over unsplit,\nthen", "over unsplit,\nnow")
    rows = []
    for name in dict.fromkeys((*old, *new)):
        both = name in old and name in new
        change = new[name].latency_s.median / old[name].latency_s.median if both else None
        rows.append(
            Row(
                name,
                _latency(then, old.get(name)),
                _latency(now, new.get(name)),
                MISSING if change is None else f"{change:.2f}",
                _over_unsplit(then, old.get(name)),
                _over_unsplit(now, new.get(name)),
            )
        )
    return Table(columns(*heads), rows, "Latencies and ratios, then and now.")


def _rows(ladder: Ladder) -> dict[str, StageRow | UnsplitRow]:
    rows: dict[str, StageRow | UnsplitRow] = {row.name: row for row in ladder.stages}
    return rows | {unsplit_name(dtype): row for dtype, row in ladder.unsplit.items()}


def _latency(ladder: Ladder, row: StageRow | UnsplitRow | None) -> str:
    return MISSING if row is None else format_latency(row.latency_s, interval=ladder.rounds != 1)


def _over_unsplit(ladder: Ladder, row: StageRow | UnsplitRow | None) -> str:
    if not isinstance(row, StageRow):
        return MISSING
    return format_ratio(row.vs_unsplit, row.vs_unsplit_interval, several=ladder.rounds != 1)
