"""What a calibration found: counts of real runs, with exact intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from perfsuite.calibration.runs import Kind, Run
from perfsuite.distributions import proportion_interval
from perfsuite.statistics import CONFIDENCE, Estimate


@dataclass(frozen=True)
class Count:
    """So many of so many."""

    hits: int
    of: int

    @property
    def rate(self) -> Estimate:
        """The share with its exact interval (Clopper and Pearson, 1934)."""
        low, high = proportion_interval(self.hits, self.of, CONFIDENCE)
        return Estimate(self.hits / self.of, low, high)

    def __str__(self) -> str:
        if not self.of:
            return "-"
        rate = self.rate
        return f"{self.hits} of {self.of} [{rate.low:.0%}, {rate.high:.0%}]"


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on one benchmark, or on all, in the runs of one kind."""

    red: Count
    undecided: Count
    change: float | None  # median of what was measured, as a share
    phase_named: Count  # of the red ones, those whose phase was the slowed one


@dataclass(frozen=True)
class Findings:
    """Everything that is written down."""

    benchmarks: Sequence[str]
    runs: Mapping[Kind, int]
    red_runs: Mapping[Kind, Count]  # runs with any red benchmark
    verdicts: Mapping[Kind, Mapping[str, Verdicts]]  # by benchmark
    total: Mapping[Kind, Verdicts]  # over all of them


def find(runs: Mapping[Kind, Sequence[Run]]) -> Findings:
    """Count."""
    made = {kind: some for kind, some in runs.items() if some}
    names: dict[str, None] = {}
    for some in made.values():
        for run in some:
            names.update(dict.fromkeys(run.outcomes))
    return Findings(
        benchmarks=list(names),
        runs={kind: len(some) for kind, some in made.items()},
        red_runs={
            kind: Count(sum(any(map(run.is_red, run.outcomes)) for run in some), len(some))
            for kind, some in made.items()
        },
        verdicts={
            kind: {name: _verdicts(kind, some, [name]) for name in names}
            for kind, some in made.items()
        },
        total={kind: _verdicts(kind, some, list(names)) for kind, some in made.items()},
    )


def _verdicts(kind: Kind, runs: Sequence[Run], names: Sequence[str]) -> Verdicts:
    pairs = [(run, name) for run in runs for name in names if name in run.outcomes]
    red = [(run, name) for run, name in pairs if run.is_red(name)]
    found = [run.outcomes[name].change_value for run, name in pairs]
    changes = [change - 1 for change in found if change is not None]
    return Verdicts(
        red=Count(len(red), len(pairs)),
        undecided=Count(sum(run.is_undecided(name) for run, name in pairs), len(pairs)),
        change=median(changes) if changes else None,
        phase_named=Count(
            sum(run.grew(name) == kind.phase for run, name in red) if kind.phase else 0,
            len(red) if kind.phase else 0,
        ),
    )
