"""A calibration as a document with a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from perfsuite.calibration.findings import Findings
from perfsuite.calibration.resampling import GATE, LEVEL
from perfsuite.calibration.rules import RULES
from perfsuite.calibration.suites import EXTENSIONS, Kind
from perfsuite.charts import drawing
from perfsuite.charts.lines import Line, lines
from perfsuite.files import write_text
from perfsuite.machine import Machine


def write(path: Path, findings: Findings, *, machine: Machine, command: str, date: str) -> None:
    """Write the document, and its chart beside it.

    Raises:
        UsageError: if it cannot be written.
    """
    picture = path.with_suffix(".svg")
    if findings.simulated:
        write_text(picture, chart(findings))
    write_text(path, document(findings, machine, command, date, picture.name))


def document(findings: Findings, machine: Machine, command: str, date: str, picture: str) -> str:
    """Return the markdown text."""
    return "\n".join(_lines(findings, machine, command, date, picture)) + "\n"


def _lines(
    findings: Findings, machine: Machine, command: str, date: str, picture: str
) -> Iterator[str]:
    yield from (
        "# How often the gate is wrong",
        "",
        (
            f"Measured on {date}: {machine['cpu']} ({machine['cpu_model']}), {machine['cores']} cores, "
            f"torch {machine['torch']}, Linux {machine['kernel']}."
        ),
        "",
        "```",
        command,
        "```",
        "",
        "Intervals in brackets are exact ones of a share, 95 %.",
        "",
        "## Real runs",
        "",
        (
            "Each is a run of `pytest perfsuite/test_latency.py` in a process of its own, against baselines "
            f"recorded before the first and extended {EXTENSIONS} times."
        ),
        "",
        (
            f"Unchanged runs that failed: **{findings.false_alarms}**. Of their stages {findings.undecided} "
            f"were left undecided, {findings.off_speed} because the machine ran at a speed that the baseline "
            f"does not know; in {findings.disturbed} rounds were left out as disturbed."
        ),
        "",
    )
    if findings.detected:
        yield "Runs in which every stage was made slower, and where that was seen:"
        yield ""
        yield from _table(
            ["slower by", *findings.stages, "phase named"],
            [
                [
                    _words(kind),
                    *(str(counts[stage]) for stage in findings.stages),
                    str(findings.named[kind]),
                ]
                for kind, counts in findings.detected.items()
            ],
        )
    if findings.simulated:
        yield from _simulated(findings, picture)


def _simulated(findings: Findings, picture: str) -> Iterator[str]:
    kinds = list(next(iter(findings.simulated.values())))
    columns = ["unchanged" if not kind else kind.replace("total", "").strip() for kind in kinds]
    yield from (
        "",
        "## The same samples, other rules",
        "",
        (
            "Suite runs drawn from the recorded ones (`perfsuite/calibration/resampling.py`): the share of them "
            "that is red. The other rules see the seconds of all processes of a look."
        ),
        "",
        f"Unchanged runs of the whole suite that this gate would fail: **{findings.simulated_alarms}**.",
        "",
        f"![Share of runs that are red, by slow-down]({picture})",
        "",
    )
    for stage, rates in findings.simulated.items():
        yield f"### {stage}"
        yield ""
        yield from _table(
            ["rule", *columns],
            [
                [name, *(f"{rates[kind].as_used[name]:.1%}" for kind in kinds)]
                for name in (GATE, *RULES)
            ],
        )
        yield ""
        yield (
            f"With each threshold moved to where {LEVEL:.0%} of unchanged runs are red "
            f"(this gate: as it is, {rates[''].as_used[GATE]:.1%}):"
        )
        yield ""
        yield from _table(
            ["rule", *columns[1:]],
            [
                [GATE, *(f"{rates[kind].as_used[GATE]:.1%}" for kind in kinds[1:])],
                *(
                    [name, *(f"{rates[kind].at_level[name]:.1%}" for kind in kinds[1:])]
                    for name in RULES
                ),
            ],
        )
        yield ""


def chart(findings: Findings) -> str:
    """Return the share of red runs over the slow-down, a curve per stage, as an SVG file."""
    curves = [
        Line(
            stage,
            [
                (100 * _share(kind), 100 * rate.as_used[GATE])
                for kind, rate in sorted(rates.items(), key=lambda item: _share(item[0]))
            ],
        )
        for stage, rates in findings.simulated.items()
    ]
    return drawing.standalone(
        lines(
            curves,
            title="Share of runs that are red, by slow-down",
            description="One curve per stage; at 0 % it is the rate of false alarms.",
            x_unit="slower by (%)",
            y_unit="red runs (%)",
            x_form=lambda value: f"{value:g}",
            y_form=lambda value: f"{value:g}",
            log=False,
        )
    )


def _share(kind: str) -> float:
    return float(kind.rpartition("+")[2].rstrip("%")) / 100 if kind else 0.0


def _words(kind: Kind) -> str:
    return f"{kind.share:.0%}, {kind.phase or 'waiting in the worker'}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(row) + " |"
