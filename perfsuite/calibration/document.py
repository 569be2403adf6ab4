"""A calibration as a Markdown document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perfsuite.calibration.findings import Findings, Verdicts
from perfsuite.calibration.runs import COMPARE, GATE, Kind
from perfsuite.gate.views import escaped
from perfsuite.units import percent

_TITLES = {
    GATE: "Against recorded baselines",
    COMPARE: "Against the same revision, `perfsuite compare`",
}


def document(
    findings: Findings,
    machine: Mapping[str, Any],
    command: str,
    date: str,
    *,
    recordings: int | None = None,
) -> str:
    """Return the text. ``recordings``: of how many hours the baselines know, fewest of all benchmarks."""
    return "\n".join(_lines(findings, machine, command, date, recordings)) + "\n"


def _lines(
    findings: Findings,
    machine: Mapping[str, Any],
    command: str,
    date: str,
    recordings: int | None,
) -> Iterator[str]:
    yield from (
        (
            f"Measured on {date}: {machine['cpu']} ({machine['cpu_model']}), {machine['cores']} cores, "
            f"Python {machine['python']}, Linux {machine['kernel']}."
        ),
        "",
        "```",
        command,
        "```",
        "",
        "Each count is of real runs in processes of their own; brackets hold the exact 95 % interval of its share.",
        "",
    )
    for mode, title in _TITLES.items():
        kinds = [kind for kind in findings.runs if kind.mode == mode]
        if kinds:
            yield from _mode(findings, kinds, title, recordings)


def _mode(
    findings: Findings, kinds: Sequence[Kind], title: str, recordings: int | None
) -> Iterator[str]:
    yield f"### {title}"
    yield ""
    if kinds[0].mode == GATE and recordings is not None:
        yield f"Baselines of {recordings} recordings of each benchmark, made before the first run."
        yield ""
    yield from _table(
        ["runs", "with any red", "benchmarks red", "undecided"],
        [
            [
                f"{findings.runs[kind]} {kind}",
                str(findings.red_runs[kind]),
                str(findings.total[kind].red),
                str(findings.total[kind].undecided),
            ]
            for kind in kinds
        ],
    )
    yield ""
    yield "Red, of all runs (undecided), and the median change that was measured:"
    yield ""
    yield from _table(
        ["benchmark", *map(str, kinds)],
        [
            [name, *(_cell(findings.verdicts[kind][name]) for kind in kinds)]
            for name in findings.benchmarks
        ],
    )
    yield ""
    for kind in kinds:
        if kind.phase:
            yield f"Phase named right, {kind}: {findings.total[kind].phase_named}."
            yield ""


def _cell(verdicts: Verdicts) -> str:
    if not verdicts.red.of:
        return "-"
    undecided = f" ({verdicts.undecided.hits})" if verdicts.undecided.hits else ""
    change = "" if verdicts.change is None else f", {percent(verdicts.change)}"
    return f"{verdicts.red.hits} of {verdicts.red.of}{undecided}{change}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(escaped(cell) for cell in row) + " |"
