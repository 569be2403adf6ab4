"""Real runs of gated tests, each in a process of its own, kept as reports in a folder.

A folder is one calibration: baselines and a report per run. What is there already is not run again, so that a
calibration of hours can be interrupted and continued.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import MeasurementError, UsageError
from perfsuite.gate.baselines import Baselines
from perfsuite.gate.outcome import UNDECIDED, Status
from perfsuite.gate.reported import Subject, read_report

BASELINES = "baselines.json"
GATE, COMPARE = "gate", "compare"
_TIMEOUT_S = 3600.0
_HAS_VERDICTS = (0, 1, 10)  # exit statuses: green, red, not all judged


@dataclass(frozen=True)
class Kind:
    """What is done to every benchmark of a run, and what judges it."""

    share: float = 0.0  # of a call's time that is added: 0.1 is 10 %
    phase: str | None = (
        None  # that is made slower by as much of a call's time; None: the whole call
    )
    mode: str = GATE  # against baselines, or against the same revision

    @property
    def name(self) -> str:
        """How its reports are called."""
        done = f"{self.phase or 'total'}+{self._percent}" if self.share else "equal"
        return done if self.mode == GATE else f"{self.mode}-{done}"

    def __str__(self) -> str:
        done = f"+{self._percent}" if self.share else "unchanged"
        return f"{done}, {self.phase}" if self.phase else done

    @property
    def _percent(self) -> str:
        return f"{100 * self.share:g}%"


@dataclass(frozen=True)
class Run:
    """One run's report."""

    kind: Kind
    outcomes: Mapping[str, Subject]  # by benchmark

    def is_red(self, name: str) -> bool:
        """Whether this benchmark failed."""
        return self._verdict(name) == Status.REGRESSION

    def is_undecided(self, name: str) -> bool:
        """Whether there is no verdict on this benchmark."""
        return self._verdict(name) in UNDECIDED

    def grew(self, name: str) -> str | None:
        """Return the phase that was said to have grown most."""
        return self.outcomes[name].grew_most if name in self.outcomes else None

    def _verdict(self, name: str) -> str:
        return self.outcomes[name].verdict if name in self.outcomes else Status.NOT_MEASURED


class Folder:
    """The runs of one calibration of ``tests``, arguments of pytest, in the current folder."""

    def __init__(self, path: Path, tests: Sequence[str], options: Sequence[str] = ()) -> None:
        """``options`` are added to pytest's command line in every run."""
        self.path, self._tests, self._options = path, list(tests), list(options)

    def runs(self, kind: Kind) -> list[Run]:
        """Return what has been run of ``kind``, in order.

        Raises:
            UsageError: for a report that is damaged.
        """
        return [self._read(kind, path) for path in self._reports(kind)]

    def record_baselines(self, extensions: int) -> None:
        """Record them unless they are there, and extend them so often.

        Raises:
            MeasurementError: if that fails.
        """
        path = self.path / BASELINES
        if path.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        status, words = self._pytest(["--update-baselines"])
        if status:
            path.unlink(missing_ok=True)  # what a part of the benchmarks has left
            raise MeasurementError(f"the baselines could not be recorded:\n{words}")
        for _ in range(extensions):  # later, when the machine may have another speed
            self._pytest(["--extend-baselines"])  # refused while others use it: there are enough

    def recordings(self) -> int:
        """Return how many recordings each baseline has at least.

        Raises:
            UsageError: if there are none, or the file is damaged.
        """
        entries = Baselines.read(self.path / BASELINES).entries
        return min((len(entry.recordings) for entry in entries), default=0)

    def run(self, kind: Kind) -> Run:
        """Run the tests once more, and keep the report.

        Raises:
            MeasurementError: if no verdict came of it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        made = self._reports(kind)
        # Not how many there are: a damaged one may have been removed.
        number = int(made[-1].stem.rpartition("-")[2]) + 1 if made else 0
        report = self.path / f"{kind.name}-{number:03}.json"
        unfinished = report.with_suffix(".part")  # an interrupted run may report, too
        arguments = [f"--perf-report={unfinished}"]
        if kind.mode == COMPARE:
            arguments.append("--perf-against=HEAD")
        if kind.share and kind.phase is None:
            arguments.append(f"--perf-slowdown=*={1 + kind.share:.4f}")
        elif kind.phase is not None:
            arguments += [
                f"--perf-slowdown={name}:{kind.phase}={1 + kind.share / share:.4f}"
                for name, share in self._shares(kind).items()
            ]
        status, words = self._pytest(arguments)
        if status not in _HAS_VERDICTS or not unfinished.exists():
            raise MeasurementError(f"the tests gave no verdicts:\n{words}")
        unfinished.replace(report)
        return self._read(kind, report)

    def _shares(self, kind: Kind) -> Mapping[str, float]:
        """Return the phase's share of a call, by benchmark, in the first unchanged run that has it."""
        for run in self.runs(Kind(mode=kind.mode)):
            shares = {
                name: one.known_phases[kind.phase] / one.ratio
                for name, one in run.outcomes.items()
                if kind.phase is not None and one.known_phases.get(kind.phase) and one.ratio
            }
            if shares:
                return shares
        raise UsageError(
            f"{self.path}: has no unchanged run to take the share of the phase {kind.phase!r} from"
        )

    def _reports(self, kind: Kind) -> list[Path]:
        return sorted(self.path.glob(f"{kind.name}-[0-9]*.json"))

    def _pytest(self, arguments: Sequence[str]) -> tuple[int, str]:
        command = [
            sys.executable, "-m", "pytest", *self._tests, "-q", "--no-header", "-p", "no:cacheprovider",
            f"--perf-baselines={self.path / BASELINES}", *self._options, *arguments,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"a run took longer than {_TIMEOUT_S:.0f} s") from error
        return done.returncode, done.stdout

    @staticmethod
    def _read(kind: Kind, path: Path) -> Run:
        try:
            return Run(kind, {one.name: one for one in read_report(path).subjects})
        except UsageError as error:
            words = str(error).removeprefix(f"{path}: ")
            raise UsageError(f"{path}: is damaged: {words}; remove it") from error
