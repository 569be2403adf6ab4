"""When to stop measuring."""

import math
from collections.abc import Sequence

import pytest

from perfsuite.gate.inference import Judgement, Verdict
from perfsuite.gate.sequential import UNCONFIRMED, decide
from perfsuite.statistics import Estimate


def judged(verdict: Verdict, change: float = 1.2) -> Judgement:
    return Judgement(verdict, Estimate(change, change, change), 0.05, 1, "because")


class Bench:
    """Gives processes "a", "b", ...; after new servers "A", "B", ..."""

    def __init__(self, looks: int = 99) -> None:
        self.looks, self.renewed, self.asked = looks, 0, list[int]()

    def measure(self) -> list[str]:
        if not self.looks:
            return []
        self.looks -= 1
        return ["new" if self.renewed else "old"]

    def renew(self) -> None:
        self.renewed += 1


@pytest.mark.parametrize("verdict", [Verdict.PASS])
def test_a_pass_ends_the_looking(verdict: Verdict) -> None:
    bench = Bench()
    decision = decide(bench.measure, lambda processes, look: judged(verdict), looks=6)
    assert (decision.looks, decision.processes, bench.renewed) == (1, ["old"], 0)


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.EXTEND])
def test_open_verdicts_are_looked_at_as_often_as_allowed(verdict: Verdict) -> None:
    asked = []

    def judge(processes: Sequence[str], look: int) -> Judgement:
        asked.append((len(processes), look))
        return judged(verdict)

    decision = decide(Bench().measure, judge, looks=3)
    assert asked == [(1, 1), (2, 2), (3, 3)]
    assert decision.judgement.verdict is verdict


def test_no_look_begins_out_of_time() -> None:
    decision = decide(
        Bench().measure,
        lambda processes, look: judged(Verdict.INCONCLUSIVE),
        looks=6,
        out_of_time=lambda: True,
    )
    assert decision.looks == 1


def test_no_processes_end_the_looking() -> None:
    decision = decide(
        Bench(looks=2).measure, lambda processes, look: judged(Verdict.INCONCLUSIVE), looks=6
    )
    assert decision.looks == 2


@pytest.mark.parametrize(
    ("verdict", "confirming", "refuting"),
    [(Verdict.REGRESSION, 1.06, 1.04), (Verdict.IMPROVED, 0.94, 0.96)],
)
def test_what_would_be_acted_on_is_confirmed_by_new_servers(
    verdict: Verdict, confirming: float, refuting: float
) -> None:
    for change, expected in ((confirming, verdict), (refuting, Verdict.INCONCLUSIVE)):
        bench = Bench()

        def judge(processes: Sequence[str], look: int, change: float = change) -> Judgement:
            return judged(verdict, change if processes[0] == "new" else 1.5)

        decision = decide(bench.measure, judge, looks=6, renew=bench.renew)
        assert decision.judgement.verdict is expected
        assert decision.processes == ["old", "new"]
        assert bench.renewed == 1
        assert (decision.judgement.reason == UNCONFIRMED) == (expected is not verdict)


def test_a_red_verdict_is_confirmed_out_of_time_as_well() -> None:
    bench = Bench()
    decision = decide(
        bench.measure,
        lambda processes, look: judged(Verdict.REGRESSION),
        looks=6,
        out_of_time=lambda: True,
        renew=bench.renew,
        confirm=lambda: ["confirming"],
    )
    assert decision.processes == ["old", "confirming"]
    assert decision.judgement.verdict is Verdict.REGRESSION


def test_without_any_fresh_process_nothing_is_confirmed() -> None:
    bench = Bench(looks=1)
    decision = decide(
        bench.measure,
        lambda processes, look: judged(Verdict.REGRESSION),
        looks=6,
        renew=bench.renew,
    )
    assert decision.judgement.verdict is Verdict.INCONCLUSIVE


def test_a_confirmation_that_was_disturbed_is_measured_again() -> None:
    bench = Bench()

    def judge(processes: Sequence[str], look: int) -> Judgement:
        fresh = processes[0] == "new"
        return judged(Verdict.REGRESSION, math.nan if fresh and len(processes) < 3 else 1.2)

    decision = decide(bench.measure, judge, looks=6, renew=bench.renew)
    assert decision.processes == ["old", "new", "new", "new"]
    assert decision.judgement.verdict is Verdict.REGRESSION


def test_the_verdict_on_all_processes_counts() -> None:
    bench = Bench()

    def judge(processes: Sequence[str], look: int) -> Judgement:
        return judged(Verdict.REGRESSION if len(processes) == 1 else Verdict.PASS)

    decision = decide(bench.measure, judge, looks=6, renew=bench.renew)
    assert decision.judgement.verdict is Verdict.PASS
