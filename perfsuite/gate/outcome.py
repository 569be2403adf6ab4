"""What is known of one benchmark after a run, and what that means for the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean, median
from typing import Any

from perfsuite.gate.inference import Judgement
from perfsuite.gate.process import Process


class Status(StrEnum):
    """How a benchmark came out. Only the first three say that it was judged against a full baseline."""

    PASS = "pass"  # noqa: S105 - no password
    IMPROVED = "improved"
    REGRESSION = "regression"
    INCONCLUSIVE = "inconclusive"
    UNKNOWN_SPEED = "unknown-speed"  # the machine ran at a speed that the baseline does not know
    EXTEND = "extend-baseline"  # what is stored cannot carry a verdict: too few recordings
    PORTABLE = "pass-elsewhere"  # only held against another machine's ratio, with a wide margin
    CHANGED = "benchmark-changed"  # its code, or its reference's, is not what was recorded
    NO_BASELINE = "no-baseline"
    NOT_MEASURED = "not-measured"
    ONE_SIDED = "one-sided"  # a comparison: only one revision has the test
    RECORDED = "recorded"


JUDGED = frozenset({Status.PASS, Status.IMPROVED, Status.REGRESSION, Status.RECORDED})
"""What a strict run accepts (a regression fails its test anyway)."""

FAILED = frozenset({Status.REGRESSION, Status.CHANGED, Status.NO_BASELINE})
"""What fails its test in any run."""

UNDECIDED = frozenset({Status.INCONCLUSIVE, Status.UNKNOWN_SPEED, Status.EXTEND})
"""What fails its test where ``perf_inconclusive = fail``."""


@dataclass
class Outcome:
    """One benchmark's result; every renderer shows this object."""

    name: str
    node: str
    status: Status
    reason: str
    processes: Sequence[Process] = ()
    reference: str = ""
    judgement: Judgement | None = None
    stored_ratio: float | None = None
    stored_phases: Mapping[str, float] = field(default_factory=dict)  # over the reference's seconds
    looks: int = 0
    failed: bool = False
    notes: Sequence[str] = ()
    workload: Mapping[str, Any] = field(default_factory=dict)
    memory: Judgement | None = None
    throughput: float | None = None  # units of work a call
    base_s: float | None = None  # a comparison: the seconds of the base
    base_phases_s: Mapping[str, float] = field(default_factory=dict)
    in_turn: str = ""  # the commit with which the change was measured in turn
    resolution: float | None = (
        None  # the least change that these samples would have shown, as a share
    )

    @property
    def shown(self) -> Sequence[Process]:
        """The processes with rounds that count; all where there is none."""
        return [one for one in self.processes if one.rounds] or self.processes

    @property
    def open(self) -> bool:
        """Whether a baseline could not decide, though the machine let most processes be measured."""
        return (
            self.status in UNDECIDED and 2 * sum(one.rounds > 0 for one in self.processes) > len(self.processes)
        )  # fmt: skip

    def settle(self, compared: Outcome, commit: str) -> None:
        """Take the verdict of a comparison with ``commit``, whose code the baseline is of.

        The measurement and its ratio stay what they are; so does the verdict, where the comparison has none.
        """
        before = ""
        if self.judgement is not None and math.isfinite(self.judgement.change.value):
            before = f" {self.judgement.change.value - 1:+.1%}"
        known = compared.status in JUDGED
        told = f"in turn with {commit}, whose code was recorded: {compared.reason}"
        self.reason = f"{told} (against the baseline{before}: {self.reason})"
        self.notes = [*self.notes, *(one for one in compared.notes if one not in self.notes)]
        if known:
            self.in_turn = commit
            self.status, self.judgement = compared.status, compared.judgement
            self.resolution = compared.resolution
            self.memory = compared.memory or self.memory

    @property
    def ratio(self) -> float | None:
        """The subject's time over the reference's."""
        shown = self.shown
        return math.exp(median(one.log_ratio for one in shown)) if shown else None

    @property
    def latency_s(self) -> float | None:
        """Seconds of a call."""
        shown = self.shown
        return median(one.subject_s for one in shown) if shown else None

    @property
    def phases(self) -> dict[str, float]:
        """Each phase over the reference's time."""
        shown = self.shown
        if not shown:
            return {}
        return {
            name: fmean(one.phases[name] for one in shown)
            for name in shown[0].phases
            if all(name in one.phases for one in shown)
        }

    @property
    def grown(self) -> tuple[str, float] | None:
        """The phase that grew most, and by how much in multiples of the reference's time; None if none did."""
        now, before = self.phases, self.stored_phases
        growth = {name: now[name] - before[name] for name in now if name in before}
        name = max(growth, key=lambda phase: growth[phase], default=None)
        return None if name is None or growth[name] <= 0 else (name, growth[name])

    @property
    def disturbed(self) -> int:
        """Rounds that were left out."""
        return sum(one.disturbed for one in self.processes)

    def as_json(self, *, samples: bool = True) -> dict[str, Any]:
        """Return what reports hold of it, with or without what it was made from."""
        judgement = self.judgement
        change = judgement.change if judgement else None
        known = change is not None and math.isfinite(change.value)
        told: dict[str, Any] = {
            "name": self.name,
            "test": self.node,
            "verdict": self.status.value,
            "failed": self.failed,
            "reason": self.reason,
            "reference": self.reference,
            "ratio": self.ratio,
            "stored_ratio": self.stored_ratio,
            "change": change.value if change and known else None,
            "change_interval": [change.low, change.high] if change and known else None,
            "margin": judgement.margin if judgement else None,
            "in_turn_with": self.in_turn or None,
            "resolution": self.resolution,
            "latency_s": self.latency_s,
            "phases": self.phases,
            "grew_most": self.grown[0] if self.grown else None,
            "processes": len(self.processes),
            "looks": self.looks,
            "disturbed_rounds": self.disturbed,
            "notes": list(self.notes),
        }
        if self.throughput is not None and self.latency_s:
            told["throughput_per_s"] = self.throughput / self.latency_s
        if self.base_s is not None:
            told |= {"base_s": self.base_s, "base_phases_s": dict(self.base_phases_s)}
        if self.memory is not None:
            peak = self.memory.change
            told["memory"] = {
                "verdict": self.memory.verdict.value,
                "change": peak.value if math.isfinite(peak.value) else None,
                "change_interval": ([peak.low, peak.high] if math.isfinite(peak.value) else None),
            }
        peaks = [one.peak_bytes for one in self.processes if one.peak_bytes]
        if peaks:
            told["peak_bytes"] = int(median(peaks))
        if samples:
            told["samples"] = [
                {
                    "log_ratio": round(one.log_ratio, 6),
                    "seconds": one.subject_s,
                    "reference_seconds": one.reference_s,
                    "server": one.server,
                    "rounds": one.rounds,
                }
                for one in self.processes
            ]
        return told
