"""A calibration as blocks of a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perfsuite.calibration.findings import Findings, Verdicts
from perfsuite.calibration.runs import COMPARE, GATE, Kind
from perfsuite.render.blocks import MISSING, Block, Heading, Listing, Paragraph, Row, Table, columns
from perfsuite.units import percent

_TITLES = {
    GATE: "Against recorded baselines",
    COMPARE: "Against the same revision, perfsuite compare",
}


def document(
    findings: Findings,
    machine: Mapping[str, Any],
    command: str,
    date: str,
    *,
    recordings: int | None = None,
) -> Iterator[Block]:
    """Yield the blocks. ``recordings``: of how many hours the baselines know, fewest of all benchmarks."""
    yield Paragraph(
        f"Measured on {date}: {machine['cpu']} ({machine['cpu_model']}), {machine['cores']} cores, "
        f"Python {machine['python']}, Linux {machine['kernel']}."
    )
    yield Listing(command)
    yield Paragraph(
        "Each count is of real runs in processes of their own; brackets hold the exact 95 % interval of its share."
    )
    for mode, title in _TITLES.items():
        kinds = [kind for kind in findings.runs if kind.mode == mode]
        if kinds:
            yield Heading(title)
            yield from _mode(findings, kinds, recordings)


def _mode(findings: Findings, kinds: Sequence[Kind], recordings: int | None) -> Iterator[Block]:
    if kinds[0].mode == GATE and recordings is not None:
        yield Paragraph(
            f"Baselines of {recordings} recordings of each benchmark, made before the first run."
        )
    yield Table(
        columns("runs", "with any red", "benchmarks red", "undecided"),
        [
            Row(
                f"{findings.runs[kind]} {kind}",
                str(findings.red_runs[kind]),
                str(findings.total[kind].red),
                str(findings.total[kind].undecided),
            )
            for kind in kinds
        ],
    )
    yield Paragraph("Red, of all runs (undecided), and the median change that was measured:")
    yield Table(
        columns("benchmark", *map(str, kinds)),
        [
            Row(name, *(_cell(findings.verdicts[kind][name]) for kind in kinds))
            for name in findings.benchmarks
        ],
    )
    for kind in kinds:
        if kind.phase:
            yield Paragraph(f"Phase named right, {kind}: {findings.total[kind].phase_named}.")


def _cell(verdicts: Verdicts) -> str:
    if not verdicts.red.of:
        return MISSING
    undecided = f" ({verdicts.undecided.hits})" if verdicts.undecided.hits else ""
    change = "" if verdicts.change is None else f", {percent(verdicts.change)}"
    return f"{verdicts.red.hits} of {verdicts.red.of}{undecided}{change}"
