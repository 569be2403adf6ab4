"""The ladder as Markdown, for a step summary or a pull request's comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from perfsuite.llama.results import PHASES
from perfsuite.report.inputs import Ladder
from perfsuite.report.ladder_section import heading, ladder_table

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~<>@&])")
_BREAKS = re.compile(r"\s+")


def ladder_markdown(ladder: Ladder) -> str:
    """A heading and two tables; nothing that a name holds can become markup."""
    table = ladder_table(ladder)
    phases = [
        (row.name, *(_share(row.phases[phase], sum(row.phases.values())) for phase in PHASES))
        for row in ladder.stages
    ]
    machine = ", ".join(f"{name} {value}" for name, value in ladder.machine.items())
    parts = [
        f"### Ladder: {escape(heading(ladder))}",
        _table(table.heads, table.rows, table.figures),
        _table(("where the time goes", *PHASES), phases, frozenset(range(1, 1 + len(PHASES)))),
        f"{escape(table.caption)} Machine: {escape(machine)}.",
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """``text`` on one line, shown as it is."""
    return _SPECIAL.sub(r"\\\1", _BREAKS.sub(" ", text).strip())


def _share(part: float, total: float) -> str:
    return f"{part / total:.1%}" if total else "-"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], figures: frozenset[int]) -> str:
    rule = ["---:" if number in figures else "---" for number in range(len(heads))]
    lines = [
        [escape(head) for head in heads],
        rule,
        *([escape(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
