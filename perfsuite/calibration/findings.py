"""What a calibration found: counts of real runs, and rates of simulated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from perfsuite.calibration.resampling import Rates, processes_of, simulate
from perfsuite.calibration.suites import Kind, Run
from perfsuite.statistics import CONFIDENCE, Estimate


@dataclass(frozen=True)
class Count:
    """So many of so many."""

    hits: int
    of: int

    @property
    def rate(self) -> Estimate:
        """The share with its exact interval (Clopper and Pearson, 1934)."""
        interval = stats.binomtest(self.hits, self.of).proportion_ci(CONFIDENCE)
        return Estimate(self.hits / self.of, float(interval.low), float(interval.high))

    def __str__(self) -> str:
        if not self.of:
            return "-"
        rate = self.rate
        return f"{self.hits} of {self.of} [{rate.low:.0%}, {rate.high:.0%}]"


@dataclass(frozen=True)
class Findings:
    """Everything that is written down."""

    stages: Sequence[str]
    false_alarms: Count  # runs of the whole suite
    detected: Mapping[Kind, Mapping[str, Count]]  # by stage, real runs
    named: Mapping[Kind, Count]  # of the red stages, those whose phase was the slowed one
    simulated: Mapping[str, Mapping[str, Rates]]  # by stage, then by kind's name
    simulated_alarms: Count  # simulated runs of the whole suite, unchanged
    undecided: Count  # stages of unchanged runs without a verdict
    off_speed: Count  # those of them that mostly ran at a speed that no baseline knows
    disturbed: Count  # stages of unchanged runs in which rounds were left out as disturbed


def find(
    unchanged: Sequence[Run],
    slowed: Mapping[Kind, Sequence[Run]],
    *,
    processes: int,
    simulations: int,
) -> Findings:
    """Count and simulate. ``processes`` are those of one look."""
    stages = list(unchanged[0].subjects)
    pairs = [(run, stage) for run in unchanged for stage in stages]
    simulated = {}
    if len(unchanged) > 1 and simulations:
        for stage in stages:
            simulated[stage] = simulate(
                [processes_of(run, stage) for run in unchanged],
                {
                    kind.name: [processes_of(run, stage) for run in runs]
                    for kind, runs in slowed.items()
                    if runs and kind.phase is None
                },
                processes=processes,
                simulations=simulations,
            )
    alarms = [
        any(run) for run in zip(*(rates[""].red for rates in simulated.values()), strict=True)
    ]
    return Findings(
        stages=stages,
        false_alarms=Count(sum(run.red for run in unchanged), len(unchanged)),
        detected={
            kind: {
                stage: Count(sum(run.is_red(stage) for run in runs), len(runs)) for stage in stages
            }
            for kind, runs in slowed.items()
            if runs
        },
        named={kind: _named(kind, runs) for kind, runs in slowed.items() if runs},
        simulated=simulated,
        simulated_alarms=Count(sum(alarms), len(alarms)),
        undecided=Count(sum(run.is_undecided(stage) for run, stage in pairs), len(pairs)),
        off_speed=Count(
            sum(run.is_undecided(stage) and run.off_speed(stage) for run, stage in pairs),
            len(pairs),
        ),
        disturbed=Count(
            sum(run.disturbed(stage) for run, stage in pairs),
            len(pairs),
        ),
    )


def _named(kind: Kind, runs: Sequence[Run]) -> Count:
    phase = kind.phase or "device"  # the worker waits where its device's time is counted
    red = [run.subjects[stage] for run in runs for stage in run.subjects if run.is_red(stage)]
    return Count(sum(subject["grew_most"] == phase for subject in red), len(red))
