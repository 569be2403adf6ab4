from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import log, nan

import pytest

from perfsuite.gate.deciding import Judgement, Verdict
from perfsuite.gate.looks import UNCONFIRMED, decide
from perfsuite.statistics import Estimate

MARGIN = 0.05
CLEAR = 0.03  # beyond the margin by this much, a change is no longer open


def judge(changes: Sequence[float]) -> Judgement:
    """Decide by the mean of what was measured; what is not a number was disturbed."""
    known = [change for change in changes if change == change]
    if not known:
        return Judgement(Verdict.INCONCLUSIVE, Estimate(nan, nan, nan), MARGIN, 0, "too few")
    change = sum(known) / len(known)
    verdict = Verdict.INCONCLUSIVE
    if change > MARGIN + CLEAR:
        verdict = Verdict.REGRESSION
    elif change < MARGIN - CLEAR:
        verdict = Verdict.PASS if change > -MARGIN else Verdict.IMPROVED
    value = Estimate(1 + change, 1 + change, 1 + change)
    return Judgement(verdict, value, MARGIN, len(known), "as it is")


@pytest.mark.parametrize(
    ("changes", "verdict", "looks"),
    [
        ([0.0], Verdict.PASS, 1),
        ([-0.2], Verdict.IMPROVED, 1),
        ([0.1, 0.1], Verdict.REGRESSION, 2),
        ([0.05, 0.2, 0.1], Verdict.REGRESSION, 3),
        ([0.05, 0.05, 0.05], Verdict.INCONCLUSIVE, 3),
        ([0.3, 0.0], Verdict.INCONCLUSIVE, 2),  # together red, but the fresh ones are not
        ([0.1, 0.055], Verdict.INCONCLUSIVE, 2),  # the fresh ones are, but not all together
        ([0.1, nan, 0.1], Verdict.REGRESSION, 3),
        ([0.1, nan, nan, nan], Verdict.INCONCLUSIVE, 4),
        ([nan, 0.0], Verdict.PASS, 2),
    ],
)
def test_it_looks_until_it_knows_and_confirms_what_is_red(
    changes: list[float], verdict: Verdict, looks: int
) -> None:
    numbers = count()

    def measure() -> list[float]:
        return [changes[next(numbers)]] * 4

    decision = decide(measure, judge, looks=3)
    assert (decision.judgement.verdict, decision.looks) == (verdict, looks)
    assert next(numbers) == looks
    assert len(decision.processes) == 4 * looks
    unconfirmed = changes[0] > MARGIN + CLEAR and verdict is Verdict.INCONCLUSIVE
    assert (decision.judgement.reason == UNCONFIRMED) is unconfirmed


def test_no_look_begins_after_the_time_limit_but_a_red_one_is_confirmed() -> None:
    assert decide(lambda: [0.05], judge, looks=3, time_limit_s=0.0).looks == 1
    red = decide(lambda: [log(1.2)], judge, looks=3, time_limit_s=0.0)
    assert (red.judgement.verdict, red.looks) == (Verdict.REGRESSION, 2)


@pytest.mark.parametrize(
    ("changes", "renewed"), [([0.0], []), ([0.05, -0.05], []), ([0.1, 0.1], [1])]
)
def test_what_processes_share_is_replaced_before_a_red_verdict_is_confirmed(
    changes: list[float], renewed: list[int]
) -> None:
    left, after = list(changes), []

    def measure() -> list[float]:
        return [left.pop(0)]

    decide(measure, judge, looks=3, renew=lambda: after.append(len(changes) - len(left)))
    assert after == renewed
