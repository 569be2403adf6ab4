from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsuite.gate.deciding import (
    MIN_REPLICATES,
    SUITE_ERROR,
    Verdict,
    alarm_confidence,
    change,
    judge,
    location,
    trimmed_mean,
)


def drawn(
    processes: int, *, shift: float = 0.0, between: float = 0.02, within: float = 0.05, seed: int
) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [
        (shift + rng.normal(0, between) + rng.normal(0, within, 8)).tolist()
        for _ in range(processes)
    ]


seeds = st.integers(0, 2**20)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, scale=st.floats(-5, 5))
def test_a_yardstick_of_another_size_changes_nothing(seed: int, scale: float) -> None:
    current, stored = drawn(5, seed=seed), drawn(8, seed=seed + 1)
    moved = [[[value + scale for value in row] for row in side] for side in (current, stored)]
    before = change(current, stored).estimate()
    after = change(*moved).estimate()
    assert after.value == pytest.approx(before.value)
    assert (after.low, after.high) == pytest.approx((before.low, before.high))


@settings(deadline=None, max_examples=25)
@given(seed=seeds, slower=st.floats(0, 1), more=st.floats(0, 1))
def test_a_slower_subject_never_gets_a_better_verdict(
    seed: int, slower: float, more: float
) -> None:
    order = [Verdict.IMPROVED, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.REGRESSION]
    stored = drawn(8, seed=seed)
    verdicts = [
        judge(drawn(5, shift=shift, seed=seed + 1), stored, margin=0.03).verdict
        for shift in (slower, slower + more)
    ]
    assert order.index(verdicts[0]) <= order.index(verdicts[1])


@settings(deadline=None, max_examples=25)
@given(processes=st.integers(0, MIN_REPLICATES - 1), shift=st.floats(-3, 3), seed=seeds)
def test_too_few_processes_give_no_verdict_whatever_they_show(
    processes: int, shift: float, seed: int
) -> None:
    few, many = drawn(processes, shift=shift, seed=seed), drawn(8, seed=seed)
    for current, stored in ((few, many), (many, few)):
        judgement = judge(current, stored, margin=0.02)
        assert judgement.verdict is Verdict.INCONCLUSIVE
        assert str(processes) in judgement.reason


def test_processes_with_too_few_rounds_do_not_count() -> None:
    current = [*drawn(2, seed=1), [3.0], [3.0, 3.0], []]
    assert judge(current, drawn(8, seed=2), margin=0.02).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.2, Verdict.REGRESSION), (0.0, Verdict.PASS), (-0.2, Verdict.IMPROVED)],
)
def test_clear_cases(shift: float, verdict: Verdict) -> None:
    current = drawn(8, shift=shift, between=0.005, within=0.01, seed=1)
    assert judge(current, drawn(12, between=0.005, seed=2), margin=0.03).verdict is verdict


def test_a_change_that_cannot_be_told_from_the_margin_is_inconclusive() -> None:
    current = drawn(4, shift=0.03, between=0.05, seed=1)
    assert judge(current, drawn(12, seed=2), margin=0.03).verdict is Verdict.INCONCLUSIVE


def test_unchanged_subjects_are_red_less_often_than_promised() -> None:
    """400 pairs of runs with nothing changed: at most the 5 % that one look of three may err."""
    red = sum(
        judge(drawn(4, seed=seed), drawn(12, seed=10_000 + seed), margin=0.0, resamples=500).verdict
        is Verdict.REGRESSION
        for seed in range(400)
    )
    # Each look may err in 1.67 % of cases on both sides together; with a margin of zero half of
    # that is red. Binomial(400, 0.0083) exceeds 10 once in 2,000 times.
    assert red <= 10


def test_the_interval_holds_the_true_change_as_often_as_it_says() -> None:
    held = 0
    for seed in range(300):
        current = drawn(5, shift=0.1, seed=seed)
        found = change(current, drawn(10, seed=20_000 + seed), resamples=500)
        estimate = found.estimate(0.9)
        held += estimate.low <= math.exp(0.1) <= estimate.high
    assert held >= 0.85 * 300


def test_location_does_not_move_with_one_process_of_five() -> None:
    rows = [[0.1] * 3, [0.1] * 3, [0.1] * 3, [0.1] * 3, [9.0] * 3]
    assert location(rows) == pytest.approx(0.1)


@given(st.integers(1, 100))
def test_the_more_subjects_the_more_an_alarm_needs(subjects: int) -> None:
    confidence = alarm_confidence(subjects)
    assert alarm_confidence(subjects + 1) >= confidence >= 0.95
    # Two independent conditions at the margin: the interval, and half of the fresh processes.
    assert subjects * (1 - confidence) / 2 * 0.5 <= SUITE_ERROR * (1 + 1e-9)


def test_stored_processes_count_by_their_nearness() -> None:
    stored = [[0.0] * 3] * 6 + [[1.0] * 3] * 6
    weights = np.array([[1.0] * 6 + [0.0] * 6, [0.0] * 6 + [1.0] * 6] * 3)
    found = change([[0.1] * 3, [1.1] * 3] * 3, stored, nearness=weights)
    assert found.value == pytest.approx(0.1, abs=1e-4)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=20))
def test_a_trimmed_mean_of_equal_weights_counts_what_is_repeated(values: list[float]) -> None:
    array = np.array(values)
    once, twice = trimmed_mean(array), trimmed_mean(np.repeat(array, 2))
    assert once == pytest.approx(twice)
    assert once == pytest.approx(trimmed_mean(array, np.full(len(array), 0.3)))
    assert array.min() - 1e-9 <= once <= array.max() + 1e-9


def test_a_trimmed_mean_leaves_out_a_fifth_at_each_end() -> None:
    values = np.array([-99.0, 0.0, 1.0, 2.0, 99.0])
    assert trimmed_mean(values) == pytest.approx(1.0)
    assert trimmed_mean(values, np.array([1.0, 1.0, 1.0, 1.0, 0.0])) == pytest.approx(
        (0.05 * -99 + 0.25 * 0 + 0.25 * 1 + 0.05 * 2) / 0.6
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        change([[bad] * 3] * 3, drawn(3, seed=1))
