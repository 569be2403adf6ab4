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
from perfsuite.statistics import Estimate
from perfsuite.units import change, counted, seconds

EXIT_REGRESSION = 1
EXIT_BROKEN = 2
EXIT_INCONCLUSIVE = 3

_COMPARED = frozenset({Status.REGRESSION, Status.PASS, Status.IMPROVED, Status.INCONCLUSIVE})
_COLUMNS = columns(
    "benchmark", "verdict", "BASE", "head", "change", "moved most",
    left=("verdict", "change", "moved most"),
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkResult:
    """One benchmark. With a ``problem`` it was not compared, and the problem says why."""

    name: str
    verdict: str
    reason: str = ""
    problem: str = ""
    change: Estimate | None = None  # head over BASE
    margin: float | None = None  # a share
    head_s: float | None = None  # median seconds of a call
    base_s: float | None = None
    head_phases_s: Mapping[str, float] = field(default_factory=dict)
    base_phases_s: Mapping[str, float] = field(default_factory=dict)
    processes: int = 0  # of each side
    looks: int = 0
    disturbed_rounds: int = 0
    samples: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, found: Subject) -> BenchmarkResult:
        """Read one from the report of a pytest run that compared two revisions."""
        if found.verdict not in _COMPARED or found.base_s is None:
            return cls(found.name, "not compared", problem=found.reason)
        # Head's are held over BASE's time of the same process, as if BASE were its reference.
        references = [one["reference_seconds"] for one in found.samples]
        reference_s = median(references or [found.base_s])
        return cls(
            found.name,
            found.verdict,
            reason=found.reason,
            change=found.change,
            margin=found.margin,
            head_s=found.seconds,
            base_s=found.base_s,
            head_phases_s={
                phase: share * reference_s for phase, share in found.known_phases.items()
            },
            base_phases_s=found.base_phases_s,
            processes=found.processes,
            looks=found.looks,
            disturbed_rounds=found.disturbed_rounds,
            samples=found.samples,
        )

    @property
    def moved(self) -> tuple[str, float] | None:
        """The phase that moved most in the direction of the change, and its seconds; None if none did."""
        if self.change is None:
            return None
        head, base = self.head_phases_s, self.base_phases_s
        moves = {phase: head[phase] - base[phase] for phase in head if phase in base}
        sign = 1 if self.change.value >= 1 else -1
        phase = max(moves, key=lambda name: sign * moves[name], default=None)
        return None if phase is None or sign * moves[phase] <= 0 else (phase, moves[phase])

    def as_json(self) -> dict[str, Any]:
        """Return all that is known."""
        told: dict[str, Any] = {"name": self.name, "verdict": self.verdict}
        if self.problem:
            return {**told, "problem": self.problem}
        return {
            **told,
            "reason": self.reason,
            "change": self.change.value if self.change else None,
            "change_interval": [self.change.low, self.change.high] if self.change else None,
            "margin": self.margin,
            "head_s": self.head_s,
            "base_s": self.base_s,
            "head_phases_s": dict(self.head_phases_s),
            "base_phases_s": dict(self.base_phases_s),
            "moved_most": self.moved[0] if self.moved else None,
            "processes": self.processes,
            "looks": self.looks,
            "disturbed_rounds": self.disturbed_rounds,
            "samples": [dict(one) for one in self.samples],
        }


@dataclass(frozen=True)
class Comparison:
    """All benchmarks of two revisions."""

    head: str  # how the sides are called
    base: str
    results: Sequence[BenchmarkResult]
    broken: Mapping[str, str] = field(default_factory=dict)  # why, by test that head cannot run
    machine: Mapping[str, Any] | None = None
    command: str = ""

    @property
    def compared(self) -> list[BenchmarkResult]:
        """The benchmarks that have a verdict."""
        return [result for result in self.results if not result.problem]

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
        rows = [Row(_cells(one), TONES.get(one.verdict, "unsure")) for one in self.compared]
        title = Heading(f"{self.head} against {self.base}")
        return [title, Table(_COLUMNS, rows), *map(Note, self._notes)]

    def as_json(self) -> dict[str, Any]:
        """Return what was measured, samples included."""
        return {
            "base": self.base,
            "head": self.head,
            "machine": self.machine,
            "command": self.command,
            "benchmarks": [result.as_json() for result in self.results],
            "broken": dict(self.broken),
        }

    @property
    def _notes(self) -> list[str]:
        compared = self.compared
        notes = [f"{test}: {words}" for test, words in self.broken.items()]
        notes += [
            f"{result.name}: not compared: {result.problem}"
            for result in self.results
            if result.problem
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


def _cells(result: BenchmarkResult) -> tuple[str, ...]:
    return (
        result.name,
        result.verdict,
        MISSING if result.base_s is None else seconds(result.base_s),
        MISSING if result.head_s is None else seconds(result.head_s),
        change(result.change) if result.change else result.reason or MISSING,
        _moved(result),
    )


def _moved(result: BenchmarkResult) -> str:
    if result.verdict == Status.PASS or result.moved is None:
        return MISSING
    phase, moved_s = result.moved
    return f"{phase} {'+' if moved_s > 0 else ''}{seconds(moved_s)}"
