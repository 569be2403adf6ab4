"""Real runs of the suite, each in a process of its own, kept as reports in a folder.

A folder is one calibration: ``baselines.json`` and a report per run. What is there already is not run again,
so that a calibration of hours can be interrupted and continued.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from perfsuite.errors import MeasurementError, UsageError
from perfsuite.gate.baselines import Profile, read

SUITE = Path(__file__).parents[1] / "test_latency.py"
BASELINES = "baselines.json"
EQUAL = "equal"
_TIMEOUT_S = 1800.0
EXTENSIONS = 3  # of the baselines, right after they are recorded


@dataclass(frozen=True)
class Kind:
    """What is done to every stage of a run: by how much its whole forward, or one phase, is slower."""

    name: str
    share: float = 0.0  # of a forward's time that is added: 0.1 is 10 %
    phase: str | None = None  # None: waiting in the worker


def equal() -> Kind:
    """Nothing is done."""
    return Kind(EQUAL)


def slower(share: float, phase: str | None = None) -> Kind:
    """A forward takes ``share`` longer, in one phase or by waiting in the worker."""
    return Kind(f"{phase or 'total'}+{share:.0%}", share, phase)


@dataclass(frozen=True)
class Run:
    """One run's report."""

    kind: Kind
    subjects: Mapping[str, Mapping[str, Any]]  # by stage

    @property
    def red(self) -> bool:
        """Whether any stage failed."""
        return any(self.is_red(stage) for stage in self.subjects)

    def is_red(self, stage: str) -> bool:
        """Whether this stage failed."""
        return bool(self.subjects[stage]["verdict"] == "regression")

    def is_undecided(self, stage: str) -> bool:
        """Whether there is no verdict on this stage."""
        return bool(self.subjects[stage]["verdict"] == "inconclusive")

    def off_speed(self, stage: str) -> bool:
        """Whether most rounds of this stage were left out because the baseline knows no such speed."""
        subject = self.subjects[stage]
        return bool(2 * subject["off_speed_rounds"] > sum(map(len, subject["samples"])))

    def disturbed(self, stage: str) -> bool:
        """Whether rounds of this stage had to be left out."""
        return bool(self.subjects[stage]["disturbed_rounds"])


class Folder:
    """The runs of one calibration."""

    def __init__(self, path: Path, options: Sequence[str] = ()) -> None:
        """``options`` are added to pytest's command line in every run."""
        self.path, self._options = path, list(options)

    def runs(self, kind: Kind) -> list[Run]:
        """Return what has been run of ``kind``, in order.

        Raises:
            UsageError: for a report that is damaged.
        """
        return [
            self._read(kind, path) for path in sorted(self.path.glob(f"{kind.name}-[0-9]*.json"))
        ]

    def record_baselines(self, extensions: int = EXTENSIONS) -> None:
        """Record them unless they are there, and extend them.

        Raises:
            MeasurementError: if that fails.
        """
        path = self.path / BASELINES
        if path.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        status, words = self._pytest(["--update-baselines"])
        if status:
            path.unlink(missing_ok=True)  # what a part of the stages has left
            raise MeasurementError(f"the baselines could not be recorded:\n{words}")
        for _ in range(extensions):  # later, when the machine may have another speed
            self._pytest(["--extend-baselines"])  # refused while others use it: there are enough

    def run(self, kind: Kind) -> Run:
        """Run the suite once more, and keep its report.

        Raises:
            MeasurementError: if no verdict came of it.
        """
        number = len(list(self.path.glob(f"{kind.name}-[0-9]*.json")))
        report = self.path / f"{kind.name}-{number:03}.json"
        slowdowns = [
            f"--perf-slowdown={stage}{f':{kind.phase}' if kind.phase else ''}={factor:.4f}"
            for stage, factor in self._factors(kind).items()
        ]
        status, words = self._pytest([f"--perf-report={report}", *slowdowns])
        if status not in (0, 1) or not report.exists():
            raise MeasurementError(f"the suite gave no verdicts:\n{words}")
        return self._read(kind, report)

    def _factors(self, kind: Kind) -> Mapping[str, float]:
        """Return the factor of each stage that adds ``kind.share`` of its forward."""
        if not kind.share:
            return {}
        if kind.phase is None:
            return dict.fromkeys(self._shares, 1 + kind.share)
        return {
            stage: 1 + kind.share / shares[kind.phase] for stage, shares in self._shares.items()
        }

    @property
    def processes(self) -> int:
        """Fresh processes of one look.

        Raises:
            UsageError: if nothing has been run yet.
        """
        for path in sorted(self.path.glob("*-[0-9]*.json")):
            subject = next(iter(self._read(equal(), path).subjects.values()))
            return int(subject["processes"]) // int(subject["looks"])
        raise UsageError(f"{self.path}: has no runs")

    @cached_property
    def _profiles(self) -> list[Profile]:
        return read(self.path / BASELINES).profiles

    @cached_property
    def _shares(self) -> Mapping[str, Mapping[str, float]]:
        """Each phase's share of a forward, by stage, as recorded."""
        (profile,) = self._profiles
        return {
            stage: {
                phase: sum(shares) / sum(map(sum, entry.phases.values()))
                for phase, shares in entry.phases.items()
            }
            for stage, entry in profile.entries.items()
        }

    def _pytest(self, arguments: Sequence[str]) -> tuple[int, str]:
        command = [
            sys.executable, "-m", "pytest", str(SUITE), "-q", "--no-header", "--benchmark-disable",
            "-p", "no:cacheprovider", f"--perf-baselines={self.path / BASELINES}",
            *self._options, *arguments,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                cwd=SUITE.parents[1],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"a run took longer than {_TIMEOUT_S:.0f} s") from error
        return done.returncode, done.stdout

    def _read(self, kind: Kind, path: Path) -> Run:
        try:
            subjects = json.loads(path.read_text(encoding="utf-8"))["subjects"]
            return Run(kind, {subject["name"]: subject for subject in subjects})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: is damaged: {error}; remove it") from error
