"""How a process is measured, on runners that note what is done with them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsuite.errors import MeasurementError
from perfsuite.gate import sampling
from perfsuite.gate.baselines import Plan
from perfsuite.gate.inference import needed_for
from perfsuite.gate.interference import Usage, Watch
from perfsuite.gate.sampling import Measured, Pair, Round, Runner, make_plan, measure
from tests.perfsuite.gate.conftest import Block, Machine

PLAN = Plan(loops=7, reference_loops=2, runs=3, rounds=5, discarded=1)
QUIET = Watch(lambda measured_s: Usage(0.0, 0.0, 0.0, 0.0))


def steady(seconds: float) -> Runner:
    """Takes so many seconds a call, and always the same."""

    def calibrate(run_s: float) -> tuple[int, float]:
        return max(1, math.ceil(run_s / seconds)), seconds

    return Runner(0, calibrate, lambda runs, loops, discarded: Block([seconds] * runs))


def pair(subject: float, *references: float) -> Pair:
    return Pair(
        steady(subject), {f"r{number}": steady(one) for number, one in enumerate(references)}
    )


def process_s(plan: Plan, subject: float, reference: float) -> float:
    """How long a process is measured by this plan."""
    both = plan.loops * subject + plan.reference_loops * reference
    return both * (plan.runs + plan.discarded) * (plan.rounds + bool(plan.discarded))


# Plans


@pytest.mark.parametrize(
    ("seconds", "runs", "rounds", "discarded"),
    [
        (50e-9, 3, 10, 1),
        (1e-6, 3, 10, 1),
        (1e-3, 3, 10, 1),
        (1e-2, 3, 7, 1),
        (0.04, 1, 3, 1),
        (0.09, 1, 3, 1),
        (0.12, 1, 2, 0),
        (0.4, 1, 1, 0),
        (1.0, 1, 1, 0),
        (20.0, 1, 1, 0),
    ],
)
def test_a_plan_suits_the_duration(seconds: float, runs: int, rounds: int, discarded: int) -> None:
    plan = make_plan(pair(seconds, 3e-4))["r0"]
    assert (plan.runs, plan.rounds, plan.discarded) == (runs, rounds, discarded)
    assert plan.loops * seconds >= sampling.RUN_S


@given(st.floats(2e-8, 30.0), st.floats(1e-7, 1.0))
@settings(deadline=None)
def test_any_plan_is_long_enough_for_the_clock_and_short_enough_to_wait_for(
    seconds: float, reference: float
) -> None:
    plan = make_plan(pair(seconds, reference))["r0"]
    assert plan.loops * seconds >= sampling.RUN_S * (1 - 1e-9)
    assert plan.reference_loops * reference >= sampling.RUN_S * (1 - 1e-9)
    one = plan.loops * seconds + plan.reference_loops * reference
    assert process_s(plan, seconds, reference) <= max(0.36, 1.01 * one, 8.01 * min(one, 0.1))
    # Neither is a call of a slow one made twice without need, nor a reference's run all of the time.
    if seconds > sampling.RUN_S:
        assert plan.loops == 1
    if reference < 1e-3:
        assert plan.reference_loops * reference <= max(0.021, sampling.RUN_S + reference)


def test_a_slow_subjects_reference_runs_longer_too() -> None:
    plan = make_plan(pair(0.1, 3e-4))["r0"]
    assert plan.reference_loops * 3e-4 >= 0.05 * 0.1
    longest = make_plan(pair(10.0, 3e-4))["r0"]
    assert 0.02 <= longest.reference_loops * 3e-4 < 0.021


def test_references_that_are_measured_together_have_rounds_in_common() -> None:
    plans = make_plan(pair(0.015, 2e-4, 0.012, 5e-4))
    assert len({(one.runs, one.rounds, one.discarded) for one in plans.values()}) == 1
    assert plans["r1"].reference_loops == 1
    assert plans["r0"].reference_loops == 4


def test_a_quantile_has_the_calls_that_it_needs_each_timed_by_itself() -> None:
    for quantile in (0.9, 0.95, 0.99):
        calls = needed_for(quantile)
        plan = make_plan(pair(1e-5, 3e-4), calls=calls)["r0"]
        assert plan.loops == 1
        assert plan.runs * plan.rounds >= calls
        assert plan.runs * plan.rounds < calls + 10


def test_calls_that_would_take_too_long_are_refused() -> None:
    assert make_plan(pair(0.1, 3e-4), calls=59, longest_s=6.0)
    with pytest.raises(MeasurementError, match="needs 299 calls in each process, of 100 ms each"):
        make_plan(pair(0.1, 3e-4), calls=299, longest_s=6.0)


def test_a_stored_plan_stays_unless_the_subject_has_become_very_slow() -> None:
    stored = make_plan(pair(50e-9, 3e-4))
    assert make_plan(pair(50e-9, 3e-4), stored=stored) == stored
    assert make_plan(pair(500e-9, 3e-4), stored=stored) == stored
    anew = make_plan(pair(0.3, 3e-4), stored=stored)["r0"]
    assert anew.loops == 1
    assert process_s(anew, 0.3, 3e-4) < 1
    slow = make_plan(pair(1.0, 3e-4))
    assert make_plan(pair(1.0, 3e-4), stored=slow) == slow


# Rounds


class Noted:
    """A subject and references that note in which order they are asked, and for what."""

    def __init__(self, *references: str) -> None:
        self.asked: list[tuple[str, int, int, int]] = []
        self.pair = Pair(self._runner("subject"), {one: self._runner(one) for one in references})

    def _runner(self, role: str) -> Runner:
        def taking(runs: int, loops: int, discarded: int) -> Block:
            self.asked.append((role, runs, loops, discarded))
            return Block([1.0] * runs)

        return Runner(0, lambda run_s: (1, 1.0), taking)


def test_a_round_is_a_block_of_each_in_drawn_order() -> None:
    noted = Noted("a", "b")
    plans = {"a": PLAN, "b": Plan(7, 9, 3, 5, 1)}
    measured = measure(noted.pair, plans, order=random.Random(1), watch=QUIET)
    assert len(measured.rounds) == 5
    # One round before those that count, where calls are short.
    rounds = list(zip(*[iter(noted.asked)] * 3, strict=True))
    assert len(rounds) == 6
    for one in rounds:
        assert sorted(one) == [("a", 3, 2, 1), ("b", 3, 9, 1), ("subject", 3, 7, 1)]
    assert len({tuple(role for role, *_ in one) for one in rounds}) > 1
    assert measured.references == ["a", "b"]


def test_orders_are_drawn_anew_for_each_process() -> None:
    order = random.Random(1)
    drawn = set()
    for _ in range(5):
        noted = Noted("a")
        measure(noted.pair, {"a": PLAN}, order=order, watch=QUIET)
        drawn.add(tuple(role for role, *_ in noted.asked))
    assert len(drawn) > 1


def test_nothing_of_a_slow_subject_is_discarded() -> None:
    noted = Noted("a")
    plan = Plan(loops=1, reference_loops=1, runs=1, rounds=2, discarded=0)
    measured = measure(noted.pair, {"a": plan}, order=random.Random(1), watch=QUIET)
    assert len(measured.rounds) == 2
    calls = [runs * loops for role, runs, loops, _ in noted.asked if role == "subject"]
    assert sum(calls) == 2


def test_the_first_round_of_a_slow_subject_is_watched_too(machine: Machine) -> None:
    machine.foreign = lambda process: 1.0
    plan = Plan(loops=1, reference_loops=1, runs=1, rounds=1, discarded=0)
    with machine.opens(0.4)(["own"]) as opened:
        measured = measure(opened, {"own": plan}, order=random.Random(1), watch=machine.watch())
    assert [one.disturbed for one in measured.rounds] == [True]


def test_what_a_process_did_before_is_no_interference(machine: Machine) -> None:
    plan = Plan(loops=1, reference_loops=1, runs=1, rounds=2, discarded=0)
    with machine.opens(0.4)(["own"]) as opened:
        opened.subject.measure(20, 1, 0)
        measured = measure(opened, {"own": plan}, order=random.Random(1), watch=machine.watch())
    assert [one.disturbed for one in measured.rounds] == [False, False]


def test_two_processes_are_both_its_own(machine: Machine) -> None:
    with machine.opens(0.03, {"base": 0.03})(["base"]) as opened:
        assert opened.subject.process != opened.references["base"].process
        measured = measure(opened, {"base": PLAN}, order=random.Random(1), watch=machine.watch())
    assert not any(one.disturbed for one in measured.rounds)


def test_a_disturbed_round_is_marked(machine: Machine) -> None:
    spoilt = iter([True, False, True, False, False, True])  # the first is the warm-up

    class Marking(Watch):
        def foreign_share(self, measured_s: float) -> float:
            return 0.3 if next(spoilt) else 0.2

    with machine.opens(1e-3)(["own"]) as opened:
        measured = measure(opened, {"own": PLAN}, order=random.Random(1), watch=Marking())
    assert [one.disturbed for one in measured.rounds] == [False, True, False, False, True]


# From rounds to a process


def rounds(
    subject: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    disturbed: Sequence[bool] = (),
    **fields: Any,
) -> Measured:
    marks = itertools.chain(disturbed, itertools.repeat(False))
    made = [
        Round(Block(one, **fields), {"own": Block(other)}, mark)
        for one, other, mark in zip(subject, reference, marks, strict=False)
    ]
    return Measured(made, "server 1")


def test_a_process_is_the_median_of_its_rounds_ratios() -> None:
    measured = rounds(
        [[2.0, 2.0, 9.0], [3.0, 3.0, 3.0], [4.0, 4.0, 0.1]], [[1.0, 1.0, 5.0]] * 3, cpu_s=1.0
    )
    process = measured.process("own")
    assert process.log_ratio == pytest.approx(math.log(3.0))
    assert process.subject_s == 3.0
    assert process.reference_s == 1.0
    assert (process.server, process.rounds, process.disturbed) == ("server 1", 3, 0)
    assert measured.subject_s == [2.0, 2.0, 9.0, 3.0, 3.0, 3.0, 4.0, 4.0, 0.1]


def test_disturbed_rounds_are_counted_and_left_out() -> None:
    process = rounds([[9.0], [2.0], [9.0], [2.0]], [[1.0]] * 4, [True, False, True]).process("own")
    assert process.log_ratio == pytest.approx(math.log(2.0))
    assert process.subject_s == 2.0
    assert (process.rounds, process.disturbed) == (2, 2)


def test_where_all_are_disturbed_all_are_shown_and_none_counts() -> None:
    process = rounds([[9.0], [8.0], [9.0]], [[1.0]] * 3, [True] * 3).process("own")
    assert process.log_ratio == pytest.approx(math.log(9.0))
    assert (process.rounds, process.disturbed) == (0, 3)


def test_a_round_at_another_speed_of_the_machine_is_left_out() -> None:
    reference = [[1.0], [1.01], [0.99], [1.0], [1.6]]
    process = rounds([[2.0], [2.0], [2.0], [2.0], [7.0]], reference).process("own")
    assert process.subject_s == 2.0
    assert (process.rounds, process.disturbed) == (4, 1)


def test_a_quantile_is_of_all_calls() -> None:
    subject = [[1.0] * 9 + [5.0]] * 10
    measured = Measured(rounds(subject, [[0.5]] * 10).rounds, quantile=0.95)
    process = measured.process("own")
    assert process.subject_s == 5.0
    assert process.log_ratio == pytest.approx(math.log(10.0))
    less = Measured(measured.rounds, quantile=0.5).process("own")
    assert less.subject_s == 1.0


def test_phases_are_shares_of_the_reference_where_every_run_has_them() -> None:
    phases = [{"a": 1.0, "b": 3.0}, {"a": 2.0}]
    process = rounds([[2.0, 2.0]] * 3, [[0.5]] * 3, phases=phases).process("own")
    assert process.phases == {"a": 3.0}
    assert sampling.median_phases([]) == {}


def test_memory_is_the_peak_at_the_end() -> None:
    one, two = (
        Round(Block([1.0], peak_bytes=5), {"own": Block([1.0])}),
        Round(Block([1.0], peak_bytes=8), {"own": Block([1.0], peak_bytes=9)}),
    )
    assert Measured([one, two]).process("own").peak_bytes == 8


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=400), st.floats(0.5, 0.999))
def test_a_quantile_is_not_exceeded_by_its_share(values: list[float], share: float) -> None:
    found = sampling.quantile(values, share)
    assert found in values
    below = sum(one <= found for one in values)
    assert below >= share * len(values) - 1e-9
    assert sum(one < found for one in values) < share * len(values) + 1e-9


def test_the_ratio_does_not_mind_a_machine_that_changes_its_speed_between_rounds() -> None:
    noise = random.Random(2)
    speeds = [1.0, 1.05, 0.95, 1.02, 1.1, 0.97]
    measured = rounds(
        [[2 * speed * noise.uniform(0.99, 1.01) for _ in range(3)] for speed in speeds],
        [[speed * noise.uniform(0.99, 1.01) for _ in range(3)] for speed in speeds],
    )
    assert measured.process("own").log_ratio == pytest.approx(math.log(2), abs=0.02)
    assert median(measured.subject_s) == pytest.approx(2.02, abs=0.1)


def test_a_pair_says_where_it_came_from() -> None:
    noted = Noted("a")
    told: Mapping[str, Any] = {"server": "s", "notes": ["a note"]}
    given_pair = Pair(noted.pair.subject, noted.pair.references, **told)
    measured = measure(given_pair, {"a": PLAN}, order=random.Random(1), watch=QUIET)
    assert (measured.server, measured.notes) == ("s", ["a note"])
