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

import numpy as np

from perfsuite.errors import MeasurementError
from perfsuite.gate import baselines, deciding, speed
from perfsuite.gate.baselines import Baselines, Entry
from perfsuite.gate.deciding import Judgement, Verdict
from perfsuite.gate.looks import decide
from perfsuite.gate.pairing import Open, Pairing, Replicate, run_all
from perfsuite.gate.speed import Sample
from perfsuite.llama.residuals import Moved, moved_constant

RECORDED_BATCHES = 2  # a baseline is made from as many times the processes of one look
MOST_BATCHES = 4  # where others use the machine meanwhile
LATENCY_MARGIN = 0.5  # for seconds, which a yardstick does not steady

# Runs a pairing's loop; pytest-benchmark's where its statistics are wanted.
Drive = Callable[[Pairing], None]


@dataclass(frozen=True)
class Settings:
    """How the gate samples. ``processes`` are measured per look, at most ``looks`` times."""

    path: Path
    update: bool = False
    extend: bool = False  # an update adds to what is stored
    processes: int = 12
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
        """Rounds that were left out because the machine ran at a speed that the baseline does not know."""
        return sum(len(one.rounds) for one in self.replicates if not one.known_speed)

    @property
    def counted(self) -> int:
        """Rounds that were judged."""
        return sum(len(one.rounds) for one in self.replicates if one.known_speed)

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

    def check(
        self,
        name: str,
        subject: Open,
        yardstick: Open,
        drive: Drive,
        renew: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Measure and judge ``name``; in update mode record it. ``drive`` runs the first look's loop.

        ``renew`` replaces what all processes share, before a red verdict is confirmed.

        Raises:
            MeasurementError: if there is no baseline, or the machine is too disturbed to record one.
        """
        if self.settings.update:
            outcome = self._record(name, subject, yardstick, drive)
        elif self.has_baseline(name):
            outcome = self._judge(name, subject, yardstick, drive, renew)
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
            return [_steady(replicate) for replicate in pairing.finish()]

    def _judge(
        self, name: str, subject: Open, yardstick: Open, drive: Drive, renew: Callable[[], None]
    ) -> Outcome:
        entry = self.stored(name)
        drives = itertools.chain([drive], itertools.repeat(run_all))
        decision = decide(
            lambda: self._measure(subject, yardstick, next(drives)),
            lambda replicates: self._judgement(name, entry, replicates),
            looks=self.settings.looks,
            time_limit_s=self.settings.time_limit_s,
            renew=renew,
        )
        judgement, replicates = decision.judgement, decision.processes
        if entry is not None:
            replicates = _of_known_speed(replicates, entry)
        outcome = _outcome(name, judgement.verdict, judgement.reason, replicates, decision.looks)
        outcome.judgement, outcome.portable = judgement, entry is None
        if entry is None:
            outcome.stored_ratio = self.baselines.portable[name]
            return outcome
        change = judgement.change.value
        # At the speed of this run, if it is known.
        outcome.stored_ratio = outcome.ratio / change if math.isfinite(change) else entry.ratio
        outcome.stored_phases = _expected_phases(outcome, entry)
        if outcome.verdict is Verdict.INCONCLUSIVE:
            outcome.reason = _why_open(outcome, entry)
        if outcome.verdict is not Verdict.REGRESSION and _slower(replicates, entry):
            outcome.verdict = Verdict.REGRESSION
            outcome.reason = f"milliseconds: more than {LATENCY_MARGIN:.0%} above the stored ones"
        return outcome

    def _judgement(
        self, name: str, entry: Entry | None, replicates: Sequence[Replicate]
    ) -> Judgement:
        confidence = deciding.alarm_confidence(len(self.baselines.names()))
        looks = self.settings.looks
        if entry is not None:
            return speed.judge(
                _sample(replicates),
                entry.sample,
                margin=entry.margin,
                confidence=confidence,
                looks=looks,
            )
        portable = math.log(self.baselines.portable[name])
        return deciding.judge(
            [replicate.rounds for replicate in replicates],
            [[portable] * deciding.MIN_ROUNDS] * deciding.MIN_REPLICATES,
            margin=baselines.PORTABLE_MARGIN,
            confidence=confidence,
            looks=looks,
        )

    def _record(self, name: str, subject: Open, yardstick: Open, drive: Drive) -> Outcome:
        profile = self.baselines.profile(self.machine, self.workload)
        before = profile.entries.get(name) if self.settings.extend else None
        stored_s = before.sample.yardstick_s if before else ()
        wanted = RECORDED_BATCHES * self.settings.processes
        drives = itertools.chain([drive], itertools.repeat(run_all))
        quiet: list[Replicate] = []
        usable: list[Replicate] = []
        batches = 0
        while len(usable) < wanted and batches < MOST_BATCHES:
            quiet += [
                replicate
                for replicate in self._measure(subject, yardstick, next(drives))
                if len(replicate.rounds) >= max(deciding.MIN_ROUNDS, replicate.disturbed)
            ]
            batches += 1
            seconds = [*stored_s, *(replicate.yardstick_s for replicate in quiet)]
            alone = speed.uncontended(seconds)[len(stored_s) :]
            usable = list(itertools.compress(quiet, alone))
        if len(usable) < max(wanted / 2, deciding.MIN_REPLICATES):
            made = batches * self.settings.processes
            raise MeasurementError(
                f"{name}: not recorded: others used the machine during {made - len(usable)} of {made} "
                "processes; end them, or try again later"
            )
        if before is not None and before.phases.keys() != usable[0].phases.keys():
            raise MeasurementError(
                f"{name}: not extended: the stored phases are of other code; use --update-baselines"
            )
        profile.entries[name] = _entry(usable, before, self.settings.processes)
        profile.recorded = provenance()
        baselines.write(self.settings.path, self.baselines)
        return _outcome(name, None, "recorded", usable, batches)


def _entry(replicates: Sequence[Replicate], before: Entry | None, per_look: int) -> Entry:
    """Return what is stored of these processes, and of those that were stored ``before``."""
    processes = [
        baselines.Process(one.rounds, one.latency_s * 1e3, one.yardstick_s * 1e3, one.phases)
        for one in replicates
    ]
    if before is not None:
        processes = (before.processes + processes)[-baselines.MOST_PROCESSES :]
    return Entry.measured(processes, per_look)


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


def _steady(replicate: Replicate) -> Replicate:
    """Return the same, without the rounds in which the machine was faster or slower than in its others."""
    kept = speed.steady(replicate.yardstick)
    return replace(
        replicate,
        rounds=list(itertools.compress(replicate.rounds, kept)),
        yardstick=list(itertools.compress(replicate.yardstick, kept)),
        disturbed=replicate.disturbed + int(np.count_nonzero(~kept)),
    )


def _quiet(replicates: Sequence[Replicate]) -> list[Replicate]:
    """Return the processes with any round that counts."""
    return [replicate for replicate in replicates if replicate.rounds]


def _sample(replicates: Sequence[Replicate]) -> Sample:
    """Return what the verdict rests on: the processes with any quiet round."""
    return Sample.of(_quiet(replicates))


def _of_known_speed(replicates: Sequence[Replicate], entry: Entry) -> list[Replicate]:
    """Return the same, each marked by whether the baseline knows its speed."""
    quiet = _quiet(replicates)
    known = speed.known(_sample(quiet), entry.sample)
    marked = [
        replace(replicate, known_speed=bool(is_known))
        for replicate, is_known in zip(quiet, known, strict=True)
    ]
    return marked + [replicate for replicate in replicates if not replicate.rounds]


def _expected_phases(outcome: Outcome, entry: Entry) -> dict[str, float]:
    """Return the stored phases at the speeds of the processes that were judged."""
    judged = _judged(outcome.replicates)
    weights = speed.nearness(_sample(judged), entry.sample).sum(axis=0) + deciding.LEAST_WEIGHT
    return {
        phase: float(np.average(shares, weights=weights)) for phase, shares in entry.phases.items()
    }


def _why_open(outcome: Outcome, entry: Entry) -> str:
    """Return why there is no verdict: the machine, where most rounds were left out because of it."""
    every = outcome.disturbed + outcome.off_speed + outcome.counted
    if 2 * outcome.disturbed > every:
        return f"others used the machine in {outcome.disturbed} of {every} rounds"
    if outcome.off_speed > outcome.counted:
        stored_s = entry.sample.yardstick_s
        return (
            f"the machine ran at a speed that the baseline does not know in {outcome.off_speed} of {every} "
            f"rounds: yardstick {_yardstick_ms(outcome.replicates):.2f} ms, "
            f"stored {min(stored_s) * 1e3:.2f} to {max(stored_s) * 1e3:.2f} ms"
        )
    return outcome.reason


def _judged(replicates: Sequence[Replicate]) -> list[Replicate]:
    """Return those of a known speed, all where there is none: they are shown then, not judged."""
    quiet = _quiet(replicates)
    return [replicate for replicate in quiet if replicate.known_speed] or quiet


def _yardstick_ms(replicates: Sequence[Replicate]) -> float:
    return median(replicate.yardstick_s for replicate in _quiet(replicates)) * 1e3


def _slower(replicates: Sequence[Replicate], entry: Entry) -> bool:
    """Whether the seconds themselves lie wholly above their margin: fastest now against slowest then.

    Only of processes of a known speed: on a slower machine all are slower.
    """
    seconds = [one.latency_s for one in replicates if one.rounds and one.known_speed]
    slowest_ms = max(process.latency_ms for process in entry.processes)
    return bool(seconds) and min(seconds) * 1e3 > slowest_ms * (1 + LATENCY_MARGIN)


def _outcome(
    name: str, verdict: Verdict | None, reason: str, replicates: list[Replicate], looks: int
) -> Outcome:
    shown = _judged(replicates) or replicates
    rounds = [replicate.rounds for replicate in _quiet(shown)]
    if not rounds:
        reason = "others used the machine all the time"
    return Outcome(
        name=name,
        verdict=verdict,
        reason=reason,
        ratio=math.exp(deciding.location(rounds)) if rounds else math.nan,
        latency_ms=median(replicate.latency_s for replicate in shown) * 1e3,
        replicates=replicates,
        phases={
            phase: fmean(replicate.phases[phase] for replicate in shown)
            for phase in shown[0].phases
        },
        looks=looks,
    )
