"""One subject against its baseline: sample, judge, sample more where it is needed, confirm every red."""

from __future__ import annotations

import itertools
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median
from typing import Any

from perfsuite.errors import MeasurementError
from perfsuite.gate import baselines, deciding
from perfsuite.gate.baselines import Baselines, Entry
from perfsuite.gate.deciding import Judgement, Verdict
from perfsuite.gate.looks import decide
from perfsuite.gate.pairing import Open, Pairing, Replicate, run_all
from perfsuite.gate.speed import at_speed, typical_s
from perfsuite.residuals import Moved, moved_constant

RECORDED_BATCHES = 3  # a baseline is made from as many times the processes of one look
MOST_BATCHES = 6  # if the machine's speed changes meanwhile
RECORDED_SHARE = 2 / 3  # of the processes of these batches must have run at one speed
DISTURBED_LIMIT = 0.25  # share of disturbed rounds with which no baseline is recorded
OFF_SPEED_MARGIN = (
    0.25  # where the machine runs at another speed than when the baseline was recorded
)
LATENCY_MARGIN = 0.5  # for seconds, which a yardstick does not steady

# Runs a pairing's loop; pytest-benchmark's where its statistics are wanted.
Drive = Callable[[Pairing], None]


@dataclass(frozen=True)
class Settings:
    """How the gate samples. ``processes`` are measured per look, at most ``looks`` times."""

    path: Path
    update: bool = False
    processes: int = 6
    looks: int = deciding.MAX_LOOKS
    time_limit_s: float = 120.0  # per subject, after which no further look begins
    seed: int = 0


@dataclass
class Outcome:
    """What is known of one subject after a run."""

    name: str
    verdict: Verdict | None  # None: recorded
    reason: str
    ratio: float
    latency_ms: float
    replicates: list[Replicate]
    stored_ratio: float | None = None
    judgement: Judgement | None = None
    phases: dict[str, float] = field(default_factory=dict)
    stored_phases: dict[str, float] = field(default_factory=dict)
    portable: bool = False  # judged by another machine's ratio
    looks: int = 1
    failed: bool = False

    @property
    def disturbed(self) -> int:
        """Rounds that were left out."""
        return sum(replicate.disturbed for replicate in self.replicates)

    @property
    def off_speed(self) -> int:
        """Rounds that were left out because the machine was faster or slower than the baseline's."""
        return sum(replicate.off_speed for replicate in self.replicates)

    @property
    def counted(self) -> int:
        """Rounds that were judged."""
        return sum(len(replicate.rounds) for replicate in self.replicates)

    @property
    def grown(self) -> Moved | None:
        """The phase that grew most, in multiples of the yardstick's time, and the constant behind it."""
        return moved_constant(self.phases, self.stored_phases, tolerance=0.0, share=0.0)

    def as_json(self, *, samples: bool = True) -> dict[str, Any]:
        """Return what reports hold of it, with or without what it was made from."""
        change = self.judgement.change if self.judgement else None
        known = change is not None and math.isfinite(change.value)
        told: dict[str, Any] = {
            "name": self.name,
            "verdict": self.verdict.value if self.verdict else "recorded",
            "reason": self.reason,
            "ratio": self.ratio if math.isfinite(self.ratio) else None,
            "stored_ratio": self.stored_ratio,
            "change": change.value if change and known else None,
            "change_interval": [change.low, change.high] if change and known else None,
            "margin": self.judgement.margin if self.judgement else None,
            "latency_ms": self.latency_ms,
            "phases": self.phases,
            "grew_most": self.grown.phase if self.grown else None,
            "portable": self.portable,
            "processes": len(self.replicates),
            "looks": self.looks,
            "disturbed_rounds": self.disturbed,
            "off_speed_rounds": self.off_speed,
        }
        if samples:
            told["samples"] = [replicate.rounds for replicate in self.replicates]
            told["yardstick_seconds"] = [
                [round(seconds, 7) for seconds in replicate.yardstick]
                for replicate in self.replicates
            ]
            told["seconds"] = [
                [round(seconds, 7) for seconds in replicate.seconds]
                for replicate in self.replicates
            ]
        return told


class Gate:
    """Holds the baselines of this machine and workload, and decides on one subject after the other."""

    def __init__(
        self, settings: Settings, machine: dict[str, Any], workload: dict[str, Any]
    ) -> None:
        """Read the baselines.

        Raises:
            UsageError: if the file is damaged.
        """
        self.settings = settings
        self.outcomes: list[Outcome] = []
        self.baselines: Baselines = baselines.read(settings.path)
        self.machine, self.workload = machine, workload
        self._seed = settings.seed

    @property
    def known_machine(self) -> bool:
        """Whether baselines of this very machine and workload are stored."""
        return self.baselines.find(self.machine, self.workload) is not None

    def names_here(self) -> set[str]:
        """Return the subjects that are stored for this machine and workload."""
        profile = self.baselines.find(self.machine, self.workload)
        return set(profile.entries) if profile else set()

    def stored(self, name: str) -> Entry | None:
        """Return what is stored for ``name`` on this machine."""
        profile = self.baselines.find(self.machine, self.workload)
        return profile.entries.get(name) if profile else None

    def has_baseline(self, name: str) -> bool:
        """Whether ``name`` can be judged: here, or by the portable ratio on a machine without profile."""
        if self.stored(name) is not None:
            return True
        return not self.known_machine and name in self.baselines.portable

    def check(self, name: str, subject: Open, yardstick: Open, drive: Drive) -> Outcome:
        """Measure and judge ``name``; in update mode record it. ``drive`` runs the first look's loop.

        Raises:
            MeasurementError: if there is no baseline, or the machine is too disturbed to record one.
        """
        if self.settings.update:
            outcome = self._record(name, subject, yardstick, drive)
        elif self.has_baseline(name):
            outcome = self._judge(name, subject, yardstick, drive)
        else:
            raise MeasurementError(f"{name}: no baseline in {self.settings.path}")
        self.outcomes.append(outcome)
        return outcome

    def _measure(self, subject: Open, yardstick: Open, drive: Drive) -> list[Replicate]:
        self._seed += 1
        processes = self.settings.processes
        with Pairing(subject, yardstick, processes=processes, seed=self._seed) as pairing:
            drive(pairing)
            run_all(pairing)  # what a disabled pytest-benchmark has left
            return pairing.finish()

    def _judge(self, name: str, subject: Open, yardstick: Open, drive: Drive) -> Outcome:
        entry, portable = self.stored(name), None
        if entry is None:
            portable = self.baselines.portable[name]
            stored = [[math.log(portable)] * deciding.MIN_ROUNDS] * deciding.MIN_REPLICATES
            margin = baselines.PORTABLE_MARGIN
        else:
            stored, margin = entry.replicates, entry.margin
        drives = itertools.chain([drive], itertools.repeat(run_all))

        def alike(replicates: Sequence[Replicate]) -> Sequence[Replicate]:
            return at_speed(replicates, entry.yardstick_ms / 1e3) if entry else replicates

        def judge(replicates: Sequence[Replicate]) -> Judgement:
            judgement = self._judgement(alike(replicates), stored, margin)
            if judgement.verdict is Verdict.INCONCLUSIVE and margin < OFF_SPEED_MARGIN:
                # What no change of the machine's speed explains is red at any speed.
                widely = self._judgement(replicates, stored, OFF_SPEED_MARGIN)
                if widely.verdict is Verdict.REGRESSION:
                    return replace(widely, reason=f"{widely.reason} for any speed of the machine")
            return judgement

        decision = decide(
            lambda: self._measure(subject, yardstick, next(drives)),
            judge,
            looks=self.settings.looks,
            time_limit_s=self.settings.time_limit_s,
        )
        judgement, replicates = decision.judgement, decision.processes
        if judgement.margin == margin:
            replicates = list(alike(replicates))
        verdict, reason = judgement.verdict, judgement.reason
        if verdict is not Verdict.REGRESSION and entry is not None and _slower(replicates, entry):
            verdict = Verdict.REGRESSION
            reason = f"milliseconds: more than {LATENCY_MARGIN:.0%} above the stored ones"
        outcome = _outcome(name, verdict, reason, replicates, decision.looks)
        outcome.judgement, outcome.portable = judgement, entry is None
        if entry and verdict is Verdict.INCONCLUSIVE and outcome.off_speed > outcome.counted:
            outcome.reason = (
                f"the machine ran at another speed than when the baseline was recorded in "
                f"{outcome.off_speed} of {outcome.off_speed + outcome.counted} rounds; "
                f"its yardstick took {entry.yardstick_ms:.2f} ms then"
            )
        outcome.stored_ratio = entry.ratio if entry else portable
        outcome.stored_phases = dict(entry.phases) if entry else {}
        return outcome

    def _judgement(
        self, replicates: Sequence[Replicate], stored: deciding.Replicates, margin: float
    ) -> Judgement:
        rounds = [replicate.rounds for replicate in replicates]
        return deciding.judge(rounds, stored, margin=margin, looks=self.settings.looks)

    def _record(self, name: str, subject: Open, yardstick: Open, drive: Drive) -> Outcome:
        enough = math.ceil(RECORDED_SHARE * RECORDED_BATCHES * self.settings.processes)
        drives = itertools.chain([drive], itertools.repeat(run_all))
        measured: list[Replicate] = []
        batches = 0
        while True:
            measured += self._measure(subject, yardstick, next(drives))
            batches += 1
            yardstick_s = typical_s(measured)
            replicates = at_speed(measured, yardstick_s)
            usable = [one for one in replicates if len(one.rounds) >= deciding.MIN_ROUNDS]
            if batches >= RECORDED_BATCHES and (len(usable) >= enough or batches == MOST_BATCHES):
                break
        disturbed = sum(one.disturbed for one in replicates)
        off_speed = sum(one.off_speed for one in replicates)
        made = disturbed + off_speed + sum(len(one.rounds) for one in replicates)
        if disturbed > DISTURBED_LIMIT * made:
            raise MeasurementError(
                f"{name}: not recorded: others used the machine in {disturbed} of {made} "
                "rounds; end them and try again"
            )
        if len(usable) < max(enough, deciding.MIN_REPLICATES):
            raise MeasurementError(
                f"{name}: not recorded: the machine ran at another speed in {off_speed} of {made} "
                "rounds; try again when it is steady"
            )
        rounds = [replicate.rounds for replicate in usable]
        outcome = _outcome(name, None, "recorded", usable, batches)
        profile = self.baselines.profile(self.machine, self.workload)
        profile.recorded = provenance()
        profile.entries[name] = Entry(
            rounds,
            [replicate.latency_s * 1e3 for replicate in usable],
            baselines.measured_margin(rounds, self.settings.processes),
            yardstick_s * 1e3,
            outcome.phases,
        )
        baselines.write(self.settings.path, self.baselines)
        return outcome


def provenance() -> dict[str, str]:
    """Return the commit, empty where there is none, and the date of now."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return {"commit": commit, "date": datetime.now(UTC).date().isoformat()}


def _slower(replicates: Sequence[Replicate], entry: Entry) -> bool:
    """Whether the seconds themselves lie wholly above their margin: fastest now against slowest then.

    Only of processes that mostly ran at the baseline's speed: on a slower machine all are slower.
    """
    seconds = [one.latency_s for one in replicates if len(one.rounds) > one.off_speed]
    return bool(seconds) and min(seconds) * 1e3 > max(entry.latency_ms) * (1 + LATENCY_MARGIN)


def _outcome(
    name: str, verdict: Verdict | None, reason: str, replicates: list[Replicate], looks: int
) -> Outcome:
    rounds = [replicate.rounds for replicate in replicates if replicate.rounds]
    if not rounds:
        reason = "others used the machine all the time"
    names = replicates[0].phases
    return Outcome(
        name=name,
        verdict=verdict,
        reason=reason,
        ratio=math.exp(deciding.location(rounds)) if rounds else math.nan,
        latency_ms=median(replicate.latency_s for replicate in replicates) * 1e3,
        replicates=replicates,
        phases={
            phase: fmean(replicate.phases[phase] for replicate in replicates) for phase in names
        },
        looks=looks,
    )
