"""The result of a comparison, and how people and other programs read it: text, Markdown, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from perfsuite.gate.outcome import Status
from perfsuite.gate.views import escaped
from perfsuite.statistics import Estimate
from perfsuite.units import percent, seconds

EXIT_REGRESSION = 1
EXIT_BROKEN = 2
EXIT_INCONCLUSIVE = 3

_COMPARED = frozenset({Status.REGRESSION, Status.PASS, Status.IMPROVED, Status.INCONCLUSIVE})
_SIGNS = {
    Status.REGRESSION: "🔴",
    Status.PASS: "🟢",
    Status.INCONCLUSIVE: "🟡",
    Status.IMPROVED: "🔵",
}
_COLUMNS = ("benchmark", "verdict", "BASE", "head", "change", "moved most")
_NUMBERS = frozenset({"BASE", "head"})


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
    def read(cls, outcome: Mapping[str, Any]) -> BenchmarkResult:
        """Read one from the report of a pytest run that compared two revisions."""
        name, verdict, reason = outcome["name"], outcome["verdict"], outcome["reason"]
        if verdict not in _COMPARED or outcome.get("base_s") is None:
            return cls(name, "not compared", problem=reason)
        change = None
        if outcome["change"] is not None:
            change = Estimate(outcome["change"], *outcome["change_interval"])
        samples = outcome.get("samples", ())
        # Head's are held over BASE's time of the same process, as if BASE were its reference.
        reference_s = median([one["reference_seconds"] for one in samples] or [outcome["base_s"]])
        return cls(
            name,
            verdict,
            reason=reason,
            change=change,
            margin=outcome["margin"],
            head_s=outcome["latency_s"],
            base_s=outcome["base_s"],
            head_phases_s={
                phase: share * reference_s for phase, share in outcome["phases"].items()
            },
            base_phases_s=outcome.get("base_phases_s", {}),
            processes=outcome["processes"],
            looks=outcome["looks"],
            disturbed_rounds=outcome["disturbed_rounds"],
            samples=samples,
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

    def text(self) -> str:
        """Return an aligned table below a line that says what was compared, and notes of what was not."""
        table = [_COLUMNS, *map(_cells, self.compared)]
        widths = [max(len(row[place]) for row in table) for place in range(len(_COLUMNS))]
        lines = [self._title, ""]
        lines += [
            "  ".join(
                cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
                for column, cell, width in zip(_COLUMNS, row, widths, strict=True)
            ).rstrip()
            for row in table
        ]
        lines += ["", *self._notes]
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the same for a step summary or a pull request's comment."""
        lines = [
            f"### {escaped(self._title)}",
            "",
            "| | " + " | ".join(_COLUMNS) + " |",
            "|---|---|---|---:|---:|---|---|",
        ]
        lines += [
            f"| {_SIGNS[Status(result.verdict)]} | "
            + " | ".join(escaped(cell) for cell in _cells(result))
            + " |"
            for result in self.compared
        ]
        lines += ["", *(f"- {escaped(note)}" for note in self._notes)]
        return "\n".join(lines) + "\n"

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
    def _title(self) -> str:
        return f"{self.head} against {self.base}"

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
            looks = "look" if result.looks == 1 else "looks"
            count = f"{result.processes} in {result.looks} {looks}"
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
        " ".join(result.name.split()),
        result.verdict,
        "-" if result.base_s is None else seconds(result.base_s),
        "-" if result.head_s is None else seconds(result.head_s),
        _change(result),
        _moved(result),
    )


def _change(result: BenchmarkResult) -> str:
    if result.change is None:
        return result.reason or "-"
    change = result.change
    return f"{percent(change.value - 1)} [{percent(change.low - 1)}, {percent(change.high - 1)}]"


def _moved(result: BenchmarkResult) -> str:
    if result.verdict == Status.PASS or result.moved is None:
        return "-"
    phase, moved_s = result.moved
    return f"{phase} {'+' if moved_s > 0 else ''}{seconds(moved_s)}"
