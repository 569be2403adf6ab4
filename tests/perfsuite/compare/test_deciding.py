from __future__ import annotations

from math import log

import numpy as np
import pytest

from perfsuite.compare.deciding import judge_change, median_phases, moved_most
from perfsuite.gate.deciding import Verdict
from perfsuite.gate.pairing import Timed


def rounds_of(change: float, noise: float = 0.005, seed: int = 0) -> list[list[float]]:
    """Processes whose head takes 1 + ``change`` times what BASE takes; ``noise`` is between processes."""
    rng = np.random.default_rng(seed)
    return [
        list(log(1 + change) + rng.normal(0, noise) + rng.normal(0, 0.005, 5)) for _ in range(8)
    ]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (0.0, Verdict.PASS),
        (0.1, Verdict.REGRESSION),
        (-0.1, Verdict.IMPROVED),
        (0.05, Verdict.INCONCLUSIVE),
    ],
)
def test_the_change_against_zero_gives_the_verdict(change: float, verdict: Verdict) -> None:
    judgement = judge_change(rounds_of(change), margin=0.05, looks=3)
    assert judgement.verdict is verdict
    assert judgement.change.low < 1 + change < judgement.change.high
    assert judgement.change.value == pytest.approx(1 + change, abs=0.01)


def test_the_interval_covers_no_change_as_often_as_it_says() -> None:
    changes = [
        judge_change(rounds_of(0.0, seed=seed), margin=0.05, looks=1).change for seed in range(100)
    ]
    missed = sum(not change.low <= 1 <= change.high for change in changes)
    assert missed <= 12  # 5 are expected; the seeds are fixed, so it is always as many


def test_too_few_processes_are_inconclusive() -> None:
    judgement = judge_change([[0.5] * 5] * 2, margin=0.05, looks=1)
    assert judgement.verdict is Verdict.INCONCLUSIVE


def test_the_phase_that_moved_is_found_in_the_direction_asked_for() -> None:
    head = median_phases([Timed(1.0, {"device": 3.0, "trusted": 1.0, "new": 9.0})] * 3)
    base = median_phases([Timed(1.0, {"device": 2.0, "trusted": 1.5})] * 3)
    assert moved_most(head, base, slower=True) == ("device", 1.0)
    assert moved_most(head, base, slower=False) == ("trusted", -0.5)
    assert moved_most(base, base, slower=True) is None
    assert moved_most({}, {}, slower=True) is None
