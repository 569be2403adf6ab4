"""All stages of two revisions, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from perfsuite.compare.deciding import Rules, judge_change, median_phases, moved_most
from perfsuite.compare.sides import Sides, Tree
from perfsuite.errors import RevisionError, UsageError
from perfsuite.forked.servers import Workload
from perfsuite.gate.deciding import Judgement, Verdict
from perfsuite.gate.looks import Decision, decide
from perfsuite.gate.pairing import Pairing, Replicate, Timed, run_all

EXIT_REGRESSION = 1
EXIT_BROKEN = 2
EXIT_INCONCLUSIVE = 3


@dataclass
class StageResult:
    """One stage. Without a ``decision``, ``problem`` says why there is none."""

    name: str
    decision: Decision[Replicate] | None = None
    problem: str = ""
    broken: bool = False  # it was head that failed
    head: list[Timed] = field(default_factory=list)
    base: list[Timed] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The verdict in one word."""
        return self.decision.judgement.verdict.value if self.decision else "not compared"

    @property
    def latency_s(self) -> tuple[float, float]:
        """Median seconds of head and of BASE."""
        return median(run.seconds for run in self.head), median(run.seconds for run in self.base)

    @property
    def moved(self) -> tuple[str, float] | None:
        """The phase that moved most in the direction of the change, and its seconds."""
        if self.decision is None:
            return None
        slower = self.decision.judgement.change.value >= 1
        return moved_most(median_phases(self.head), median_phases(self.base), slower=slower)


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how."""

    head: Tree
    base: Tree
    workload: Workload
    rules: Rules
    scratch: Path
    seed: int = 0

    def sides(self) -> Sides:
        """Return what runs head and BASE."""
        return Sides(self.head, self.base, self.workload, self.scratch)

    def stages(
        self, sides: Sides, wanted: Sequence[str] | None
    ) -> tuple[list[str], list[StageResult]]:
        """Return the stages that both sides have, in head's order, and what is said of the others.

        Raises:
            UsageError: for a wanted stage that neither side has.
            RevisionError: if a tree's runtime cannot be imported.
        """
        head, base = sides.stages()
        known = [*head, *(name for name in base if name not in head)]
        for name in wanted or []:
            if name not in known:
                raise UsageError(f"--stages: no stage {name!r}; there are {', '.join(known)}")
        common, one_sided = [], []
        for name in known:
            if wanted is not None and name not in wanted:
                continue
            if name in head and name in base:
                common.append(name)
            else:
                where = self.head.title if name in head else self.base.title
                one_sided.append(StageResult(name, problem=f"only {where} has it"))
        return common, one_sided

    def stage(self, sides: Sides, name: str) -> StageResult:
        """Measure and judge one stage."""
        result = StageResult(name)
        seeds = itertools.count(self.seed)

        def measure() -> list[Replicate]:
            pairing = Pairing(
                *sides.openers(name),
                processes=self.rules.processes,
                rounds=self.rules.rounds,
                seed=next(seeds),
            )
            try:
                with pairing:
                    run_all(pairing)
                    replicates = pairing.finish()
            except RevisionError:
                result.broken = sides.head_failed
                raise
            head, base = sides.timed()
            result.head += head
            result.base += base
            return replicates

        def judge(replicates: Sequence[Replicate]) -> Judgement:
            rounds = [replicate.rounds for replicate in replicates if replicate.rounds]
            return judge_change(rounds, margin=self.rules.margin, looks=self.rules.looks)

        try:
            result.decision = decide(
                measure,
                judge,
                looks=self.rules.looks,
                time_limit_s=self.rules.time_limit_s,
                renew=sides.renew,
            )
        except RevisionError as error:
            result.problem = str(error)
        return result


def exit_status(results: Sequence[StageResult]) -> int:
    """Return 1 where a stage regressed, 2 where head cannot run one, 3 where one is undecided, else 0."""
    verdicts = {result.decision.judgement.verdict for result in results if result.decision}
    if Verdict.REGRESSION in verdicts:
        return EXIT_REGRESSION
    if any(result.broken for result in results):
        return EXIT_BROKEN
    return EXIT_INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else 0
