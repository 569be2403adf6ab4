"""The result of a comparison, as blocks for people and as JSON for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from perfsuite.gate.outcome import Status
from perfsuite.gate.reported import Subject
from perfsuite.gate.views import TONES
from perfsuite.render.blocks import MISSING, Block, Heading, Note, Row, Table, columns
from perfsuite.units import change, counted, seconds

EXIT_REGRESSION = 1
EXIT_BROKEN = 2
EXIT_INCONCLUSIVE = 3

_COMPARED = frozenset({Status.REGRESSION, Status.PASS, Status.IMPROVED, Status.INCONCLUSIVE})
_COLUMNS = columns(
    "benchmark", "verdict", "BASE", "head", "change", "moved most",
    left=("verdict", "change", "moved most"),
)  # fmt: skip


def problem(result: Subject) -> str:
    """Return why a benchmark was not compared; nothing if it was."""
    return "" if result.verdict in _COMPARED and result.base_s is not None else result.reason


def head_phases_s(result: Subject) -> dict[str, float]:
    """Return the seconds of head's phases: they are held over BASE's time, as if BASE were its reference."""
    references = [one["reference_seconds"] for one in result.samples]
    base_s = median(references or [result.base_s or 0.0])
    return {phase: share * base_s for phase, share in result.known_phases.items()}


def moved(result: Subject) -> tuple[str, float] | None:
    """Return the phase that moved most in the direction of the change, and its seconds; None if none did."""
    if result.change is None:
        return None
    head, base = head_phases_s(result), result.base_phases_s
    moves = {phase: head[phase] - base[phase] for phase in head if phase in base}
    sign = 1 if result.change.value >= 1 else -1
    phase = max(moves, key=lambda name: sign * moves[name], default=None)
    return None if phase is None or sign * moves[phase] <= 0 else (phase, moves[phase])


def _as_json(result: Subject) -> dict[str, Any]:
    why = problem(result)
    if why:
        return {"name": result.name, "verdict": "not compared", "problem": why}
    found, most = result.change, moved(result)
    return {
        "name": result.name,
        "verdict": result.verdict,
        "reason": result.reason,
        "change": found.value if found else None,
        "change_interval": [found.low, found.high] if found else None,
        "margin": result.margin,
        "head_s": result.seconds,
        "base_s": result.base_s,
        "head_phases_s": head_phases_s(result),
        "base_phases_s": dict(result.base_phases_s),
        "moved_most": most[0] if most else None,
        "processes": result.processes,  # of each side
        "looks": result.looks,
        "disturbed_rounds": result.disturbed_rounds,
        "samples": list(result.samples),
    }


@dataclass(frozen=True)
class Comparison:
    """All benchmarks of two revisions."""

    head: str  # how the sides are called
    base: str
    results: Sequence[Subject]  # as a run of pytest that compared them reports each
    broken: Mapping[str, str] = field(default_factory=dict)  # why, by test that head cannot run
    machine: Mapping[str, Any] | None = None
    command: str = ""

    @property
    def compared(self) -> list[Subject]:
        """The benchmarks that have a verdict."""
        return [result for result in self.results if not problem(result)]

    @property
    def exit_status(self) -> int:
        """1 where one became slower, 2 where head cannot run a test, 3 where one is undecided, else 0."""
        verdicts = {result.verdict for result in self.compared}
        if Status.REGRESSION in verdicts:
            return EXIT_REGRESSION
        if self.broken:
            return EXIT_BROKEN
        return EXIT_INCONCLUSIVE if Status.INCONCLUSIVE in verdicts else 0

    def blocks(self) -> list[Block]:
        """Return a table below a line that says what was compared, and notes of what was not."""
        rows = [Row(*_cells(one), tone=TONES.get(one.verdict, "unsure")) for one in self.compared]
        title = Heading(f"{self.head} against {self.base}")
        return [title, Table(_COLUMNS, rows), *map(Note, self._notes)]

    def as_json(self) -> dict[str, Any]:
        """Return what was measured, samples included."""
        return {
            "base": self.base,
            "head": self.head,
            "machine": self.machine,
            "command": self.command,
            "benchmarks": list(map(_as_json, self.results)),
            "broken": dict(self.broken),
        }

    @property
    def _notes(self) -> list[str]:
        compared = self.compared
        notes = [f"{test}: {words}" for test, words in self.broken.items()]
        notes += [
            f"{result.name}: not compared: {problem(result)}"
            for result in self.results
            if problem(result)
        ]
        notes += [
            f"{result.name}: {result.reason}"
            for result in compared
            if result.verdict == Status.INCONCLUSIVE
        ]
        disturbed = [
            f"{result.name} {result.disturbed_rounds}"
            for result in compared
            if result.disturbed_rounds
        ]
        if disturbed:
            notes.append(f"rounds left out, others used the machine: {', '.join(disturbed)}")
        counts: dict[str, list[str]] = {}
        for result in compared:
            count = f"{result.processes} in {counted(result.looks, 'look')}"
            counts.setdefault(count, []).append(result.name)
        if counts:
            told = [f"{count} ({', '.join(names)})" for count, names in counts.items()]
            notes.append(f"pairs of fresh processes: {', '.join(told)}")
        margins = {result.margin for result in compared if result.margin is not None}
        for margin in sorted(margins):
            names = [result.name for result in compared if result.margin == margin]
            whose = f" ({', '.join(names)})" if len(margins) > 1 else ""
            notes.append(f"margin {margin:.1%}{whose}; intervals: 95 %, corrected for the looks")
        return [" ".join(note.split()) for note in notes]


def _cells(result: Subject) -> tuple[str, ...]:
    return (
        result.name,
        result.verdict,
        MISSING if result.base_s is None else seconds(result.base_s),
        MISSING if result.seconds is None else seconds(result.seconds),
        change(result.change) if result.change else result.reason or MISSING,
        _moved(result),
    )


def _moved(result: Subject) -> str:
    most = None if result.verdict == Status.PASS else moved(result)
    if most is None:
        return MISSING
    phase, moved_s = most
    return f"{phase} {'+' if moved_s > 0 else ''}{seconds(moved_s)}"
