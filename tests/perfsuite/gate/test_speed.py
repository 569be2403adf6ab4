"""Whether like is held against like, on samples whose ratio hangs on the machine's speed in a known way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsuite.gate.deciding import Verdict
from perfsuite.gate.speed import (
    NEIGHBOURS,
    Sample,
    judge,
    known,
    nearness,
    noise,
    steady,
    uncontended,
)

MARGIN = 0.02


def ratio(yardstick_s: float) -> float:
    """What a stage takes over the yardstick: calls that take a millisecond, and products."""
    return 1.3 + 1e-3 / yardstick_s


def measured(
    fastest_ms: float, slowest_ms: float, processes: int, *, slower: float = 1.0, seed: int
) -> Sample:
    """Processes at speeds between two, which differ by 1 % at one speed."""
    rng = np.random.default_rng(seed)
    seconds = np.exp(rng.uniform(math.log(fastest_ms), math.log(slowest_ms), processes)) / 1e3
    levels = [math.log(slower * ratio(value)) + rng.normal(0, 0.01) for value in seconds]
    return Sample(
        [(level + rng.normal(0, 0.03, 10)).tolist() for level in levels], seconds.tolist()
    )


STORED = measured(1.0, 2.0, 48, seed=0)


@pytest.mark.parametrize(("fastest", "slowest"), [(1.05, 1.2), (1.3, 1.5), (1.6, 1.9), (1.0, 2.0)])
def test_another_speed_is_no_change(fastest: float, slowest: float) -> None:
    """At the ends of what is stored the ratio differs from its middle by 10 %."""
    judgement = judge(measured(fastest, slowest, 24, seed=1), STORED, margin=MARGIN)
    assert judgement.verdict is Verdict.PASS
    assert judgement.change.value == pytest.approx(1.0, abs=0.012)


@pytest.mark.parametrize(("fastest", "slowest"), [(1.0, 1.2), (1.3, 1.5), (1.6, 2.0)])
def test_a_change_is_seen_at_any_stored_speed(fastest: float, slowest: float) -> None:
    judgement = judge(measured(fastest, slowest, 24, slower=1.08, seed=1), STORED, margin=MARGIN)
    assert judgement.verdict is Verdict.REGRESSION
    assert judgement.change.value == pytest.approx(1.08, abs=0.015)


@pytest.mark.parametrize("speed_ms", [0.88, 2.6])
@pytest.mark.parametrize(
    ("slower", "verdict"), [(1.02, Verdict.INCONCLUSIVE), (1.8, Verdict.REGRESSION)]
)
def test_at_a_speed_that_is_not_stored_only_what_none_explains_is_red(
    speed_ms: float, slower: float, verdict: Verdict
) -> None:
    current = measured(speed_ms, speed_ms, 12, slower=slower, seed=1)
    assert not known(current, STORED).any()
    judgement = judge(current, STORED, margin=MARGIN)
    assert judgement.verdict is verdict
    assert ("for any speed" in judgement.reason) == (verdict is Verdict.REGRESSION)


def test_processes_of_unknown_speed_change_nothing() -> None:
    current = measured(1.2, 1.5, 12, seed=1)
    strange = measured(4.0, 5.0, 12, slower=2.0, seed=2)
    both = Sample([*current.rounds, *strange.rounds], [*current.yardstick_s, *strange.yardstick_s])
    assert judge(both, STORED, margin=MARGIN) == judge(current, STORED, margin=MARGIN)


def test_a_speed_is_known_where_enough_was_stored_near_it() -> None:
    few = Sample([[0.0] * 3] * int(NEIGHBOURS), [1.0] * int(NEIGHBOURS))
    asked = Sample([[0.0] * 3] * 3, [1.0, 1.01, 1.2])
    assert known(asked, few).tolist() == [True, False, False]
    assert known(asked, Sample([*few.rounds] * 2, [*few.yardstick_s] * 2)).tolist() == [
        True,
        True,
        False,
    ]


@settings(deadline=None, max_examples=20)
@given(st.floats(0.1, 10.0), st.integers(0, 99))
def test_the_unit_of_seconds_changes_nothing(scale: float, seed: int) -> None:
    current = measured(1.1, 1.9, 8, slower=1.05, seed=seed)
    scaled = [
        Sample(side.rounds, [scale * value for value in side.yardstick_s])
        for side in (current, STORED)
    ]
    before, after = judge(current, STORED, margin=MARGIN), judge(*scaled, margin=MARGIN)
    assert after.verdict is before.verdict
    assert after.change.value == pytest.approx(before.change.value)


def test_nearness_is_one_at_equal_speed_and_falls_with_the_distance() -> None:
    (weights,) = nearness(Sample([[0.0]], [1.0]), Sample([[0.0]] * 3, [1.0, 1.05, 1.3]))
    assert weights[0] == 1.0
    assert 0.5 < weights[1] < 0.7
    assert weights[2] < 1e-4


def test_noise_is_what_a_speed_does_not_explain() -> None:
    assert np.std(STORED.medians) > 0.03
    assert np.std(noise(STORED)) < 0.02


def test_without_any_process_there_is_no_verdict() -> None:
    assert judge(Sample([], []), STORED, margin=MARGIN).verdict is Verdict.INCONCLUSIVE


@given(st.lists(st.floats(1.0, 1.1), min_size=5, max_size=10), st.floats(1.5, 9.0))
def test_a_round_at_another_speed_than_its_process_is_unsteady(
    seconds: list[float], slower: float
) -> None:
    assert steady([*seconds, slower]).tolist() == [True] * len(seconds) + [False]
    assert steady([]).tolist() == []


def test_a_yardstick_that_varies_by_itself_keeps_its_rounds() -> None:
    assert steady([1.0, 1.2, 0.8, 1.1, 0.9, 1.3, 0.7, 1.0]).all()


def test_what_a_neighbour_slowed_is_contended() -> None:
    assert uncontended([1.0, 1.1, 1.2, 1.7, 1.0, 1.29]).tolist() == [
        True,
        True,
        True,
        False,
        True,
        True,
    ]
    assert uncontended([]).tolist() == []
