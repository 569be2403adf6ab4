"""The gate on a simulated machine: what it says, how long it takes, and what it writes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfsuite.errors import MeasurementError
from perfsuite.gate import inference
from perfsuite.gate.baselines import Baselines, Entry, Plan, Recording
from perfsuite.gate.gate import BASE, Case, Gate, Rules, compare
from perfsuite.gate.inference import FEWEST, Verdict
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from tests.perfsuite.gate.conftest import Machine, Seconds

HERE = {"cpu": "a", "cpu_model": 1, "python": "3.11", "threads": 1}
CASE = Case("mine", "test_a.py::test_mine", HERE, ["own"], code="code")
BUILT_IN = ["interpreter", "memory", "arithmetic"]
SECONDS = 2e-3  # of a call of the subject when it was recorded


class Bench:
    """A gate, its file, and the machine that it measures on."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path, self.machine = path / "baselines.json", machine
        self.renewed: list[int] = []  # after how many processes

    def gate(self, **rules: Any) -> Gate:
        given = Rules(clock=self.machine.clock, watch=self.machine.watch)
        return Gate(Baselines.read(self.path), replace(given, **rules))

    def check(self, subject: Seconds = SECONDS, case: Case = CASE, **opens: Any) -> Outcome:
        rules = opens.pop("rules", {})
        opened = self.machine.opens(subject, **opens)
        return self.gate(**rules).check(case, opened, self._renew)

    def record(self, subject: Seconds = SECONDS, case: Case = CASE, **opens: Any) -> Outcome:
        rules, extend = opens.pop("rules", {}), opens.pop("extend", False)
        opened = self.machine.opens(subject, **opens)
        return self.gate(**rules).record(case, opened, extend=extend)

    def record_hours(self, subject: Seconds = SECONDS, case: Case = CASE, **opens: Any) -> None:
        """Record three times: what an interval needs that is to show some percent."""
        self.record(subject, case, **opens)
        for _ in range(2):
            self.record(subject, case, extend=True, **opens)

    def store(self, case: Case = CASE, ratio: float = 2.0, **fields: Any) -> Entry:
        """Store what some processes took that never were."""
        processes = [
            Process(math.log(ratio) + 2e-3 * (number % 5 - 2), 1e-3 * ratio, 1e-3, rounds=8)
            for number in range(12)
        ]
        told = {"commit": "abc", "date": "2026-01-01T00:00Z"}
        entry = Entry(
            case.name,
            dict(case.machine),
            dict(case.workload),
            "own",
            "code",
            Plan(1, 1, 3, 10, 1),
            case.quantile,
            [Recording(told, processes)] * 3,
        )
        entry = replace(entry, **fields)
        Baselines.read(self.path).record(entry)
        return entry

    @property
    def entry(self) -> Entry:
        (entry,) = Baselines.read(self.path).entries
        return entry

    def _renew(self) -> None:
        self.renewed.append(self.machine.processes)


@pytest.fixture
def bench(tmp_path: Path, machine: Machine) -> Bench:
    return Bench(tmp_path, machine)


@pytest.fixture
def recorded(bench: Bench) -> Bench:
    bench.record_hours()
    return bench


# Verdicts


@pytest.mark.parametrize(
    ("scale", "status"),
    [
        (1.0, Status.PASS),
        (1.3, Status.REGRESSION),
        (0.75, Status.IMPROVED),
        (5.0, Status.REGRESSION),
    ],
)
def test_the_ratio_decides(recorded: Bench, scale: float, status: Status) -> None:
    outcome = recorded.check(scale * SECONDS)
    assert outcome.status is status
    assert outcome.judgement is not None
    assert outcome.judgement.change.low < scale < outcome.judgement.change.high
    assert outcome.latency_s == pytest.approx(scale * SECONDS, rel=0.01)
    assert outcome.stored_ratio == pytest.approx(2.0, rel=0.01)
    assert outcome.ratio == pytest.approx(2 * scale, rel=0.01)
    assert outcome.reference == "own"
    assert outcome.node == CASE.node


@pytest.mark.parametrize("scale", [1.3, 0.75])
def test_what_would_be_acted_on_is_measured_again_by_new_servers(
    recorded: Bench, scale: float
) -> None:
    before = recorded.machine.processes
    outcome = recorded.check(scale * SECONDS)
    assert recorded.renewed == [before + len(outcome.processes) - 6]
    assert outcome.looks >= 2


def test_an_unchanged_subject_needs_no_second_look(recorded: Bench) -> None:
    outcome = recorded.check()
    assert (outcome.looks, len(outcome.processes), recorded.renewed) == (1, 6, [])


@pytest.mark.parametrize("lucky", [1.5, 0.6])
def test_what_fresh_processes_do_not_confirm_is_no_verdict(recorded: Bench, lucky: float) -> None:
    until = recorded.machine.processes
    outcome = recorded.check(lambda number: (lucky if number < until + 6 else 1.0) * SECONDS)
    assert outcome.status in (Status.INCONCLUSIVE, Status.PASS)
    assert recorded.renewed == [until + 6]
    assert outcome.looks == 2


def test_noise_that_hides_the_margin_is_inconclusive_and_says_what_it_shows(
    recorded: Bench,
) -> None:
    recorded.machine.process_noise = 0.1
    outcome = recorded.check(1.04 * SECONDS, case=replace(CASE, margin=0.02))
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.resolution is not None
    assert outcome.resolution > 0.02
    assert f"these samples show changes of {outcome.resolution:.1%} and more" in outcome.reason


def test_a_baseline_of_one_hour_asks_to_be_extended_instead_of_going_red(bench: Bench) -> None:
    bench.record()
    outcome = bench.check(1.06 * SECONDS)
    assert outcome.status is Status.EXTEND
    assert "recordings of other hours" in outcome.reason


def test_a_margin_of_the_users_own_takes_the_place_of_the_measured_one(recorded: Bench) -> None:
    outcome = recorded.check(1.1 * SECONDS, case=replace(CASE, margin=0.3))
    assert outcome.status is Status.PASS
    assert outcome.judgement is not None
    assert outcome.judgement.margin == 0.3


def test_another_speed_of_the_machine_is_no_verdict_and_names_both(recorded: Bench) -> None:
    outcome = recorded.check(1.4 * SECONDS, references={"own": 1.4e-3})
    assert outcome.status is Status.UNKNOWN_SPEED
    assert re.search(r"reference 1\.40 ms, stored (999 us|1\.00 ms) to 1\.0", outcome.reason)
    assert "--extend-baselines" in outcome.reason


def test_an_extension_adds_a_speed(recorded: Bench) -> None:
    slowly: dict[str, Any] = {"references": {"own": 1.2e-3}}
    assert recorded.check(1.2 * SECONDS, **slowly).status is Status.UNKNOWN_SPEED
    recorded.record(1.2 * SECONDS, extend=True, **slowly)
    assert len(recorded.entry.recordings) == 4
    assert recorded.check(1.2 * SECONDS, **slowly).status is Status.PASS
    assert recorded.check().status is Status.PASS


@pytest.mark.parametrize("speed", [0.7, 1.0, 2.0])
def test_five_times_slower_is_red_at_any_speed_beside_any_neighbours(
    recorded: Bench, speed: float
) -> None:
    recorded.machine.foreign = lambda process: 2.0
    recorded.machine.process_noise = 0.2
    outcome = recorded.check(5 * speed * SECONDS, references={"own": speed * 1e-3})
    assert outcome.status is Status.REGRESSION
    assert sum(one.rounds for one in outcome.processes) == 0
    assert outcome.disturbed > 0
    assert recorded.renewed


# Two that take long enough for the kernel's ticks to show who else used the machine.
LONG: dict[str, Any] = {"references": {"own": 0.01}}


@pytest.mark.parametrize("seconds", [0.02, 0.4])
def test_where_others_used_the_machine_there_is_no_verdict_and_it_says_so(
    bench: Bench, seconds: float
) -> None:
    bench.record_hours(seconds, **LONG)
    bench.machine.foreign = lambda process: 1.0
    outcome = bench.check(1.1 * seconds, **LONG)
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.reason.startswith(f"others used the machine in {outcome.disturbed} of ")


def test_the_stored_plan_is_kept(recorded: Bench) -> None:
    plan = recorded.entry.plan
    assert plan is not None
    recorded.machine.blocks.clear()
    recorded.check(SECONDS / 3)
    assert {loops for _, loops in recorded.machine.blocks} == {plan.loops}
    per_process = 2 * (plan.rounds + 1)
    assert len(recorded.machine.blocks) % per_process == 0


def test_a_cache_that_was_lost_does_not_take_hours(bench: Bench) -> None:
    fast: dict[str, Any] = {"references": {"own": 1e-4}}
    bench.record_hours(50e-9, **fast)
    plan = bench.entry.plan
    assert plan is not None
    assert plan.loops > 5_000
    began = bench.machine.now
    outcome = bench.check(5e-3, **fast)
    assert outcome.status is Status.REGRESSION
    assert bench.machine.now - began < 60


# Thresholds


def test_memory_that_grew_is_red_though_the_time_did_not(bench: Bench) -> None:
    case = replace(CASE, memory=True)

    def before(process: int) -> int:
        return 100_000_000 + 100_000 * (process % 3)

    bench.record_hours(case=case, peak_bytes=before)
    assert bench.check(case=case, peak_bytes=before).status is Status.PASS
    outcome = bench.check(case=case, peak_bytes=lambda process: 120_000_000 + 1000 * (process % 3))
    assert outcome.status is Status.REGRESSION
    assert outcome.reason.startswith("peak memory: grew by 19.")
    assert outcome.memory is not None
    assert outcome.memory.verdict is Verdict.REGRESSION


def test_memory_of_which_nothing_is_stored_is_not_passed_over(bench: Bench) -> None:
    bench.record_hours()
    case = replace(CASE, memory=True)
    outcome = bench.check(case=case, peak_bytes=lambda process: 100_000_000)
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.reason.startswith("peak memory: ")


def test_memory_elsewhere_is_held_against_the_wide_margin(bench: Bench) -> None:
    case = replace(CASE, memory=True)
    bench.record_hours(case=case, peak_bytes=lambda process: 100_000_000 + process)
    here = replace(case, machine={**HERE, "python": "3.12"})
    outcome = bench.check(case=here, peak_bytes=lambda process: 115_000_000 + process)
    assert outcome.status is Status.PORTABLE


def test_a_call_that_takes_longer_than_its_limit_is_red_whatever_was_recorded(
    recorded: Bench,
) -> None:
    assert recorded.check(case=replace(CASE, max_s=1.5 * SECONDS)).status is Status.PASS
    outcome = recorded.check(case=replace(CASE, max_s=0.8 * SECONDS))
    assert outcome.status is Status.REGRESSION
    assert outcome.reason.startswith("a call takes more than 1.60 ms: ")


@pytest.mark.parametrize(
    ("scale", "status"),
    [(2.0, Status.PASS), (0.5, Status.REGRESSION), (1.0, Status.INCONCLUSIVE)],
)
def test_a_limit_alone_needs_no_baseline(bench: Bench, scale: float, status: Status) -> None:
    outcome = bench.check(case=replace(CASE, max_s=scale * SECONDS))
    assert outcome.status is status
    assert not bench.path.exists()
    if status is Status.PASS:
        assert "held against max_ms alone" in outcome.reason


def test_a_quantile_sees_what_the_median_does_not(bench: Bench) -> None:
    case = replace(CASE, quantile=0.95)
    bench.record_hours(case=case)
    assert bench.check(case=case).status is Status.PASS
    bench.machine.tenth = 4.0
    outcome = bench.check(case=case)
    assert outcome.status is Status.REGRESSION
    assert outcome.latency_s == pytest.approx(4 * SECONDS, rel=0.02)


def test_a_quantile_of_slow_calls_says_how_many_it_needs(bench: Bench) -> None:
    with pytest.raises(MeasurementError, match=r"quantile 0\.99 needs 299 calls in each") as told:
        bench.record(0.4, case=replace(CASE, quantile=0.99))
    assert "perf_time_limit" in str(told.value)
    assert bench.machine.now < 10


# What is no verdict on speed


def test_without_a_baseline_nothing_is_measured(bench: Bench) -> None:
    outcome = bench.check()
    assert outcome.status is Status.NO_BASELINE
    assert str(bench.path) in outcome.reason
    assert bench.machine.processes == 0


def test_another_workload_is_named_by_its_fields(bench: Bench) -> None:
    bench.store(replace(CASE, workload={"size": 3, "kind": "a"}))
    outcome = bench.check(case=replace(CASE, workload={"size": 4, "kind": "a"}))
    assert outcome.status is Status.NO_BASELINE
    assert "workload.size" in outcome.reason
    assert "kind" not in outcome.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": "other code"}, "its code, or its reference's"),
        ({"references": BUILT_IN}, "its reference was 'own'"),
        ({"quantile": 0.95}, "quantile None was judged"),
    ],
)
def test_a_changed_benchmark_is_never_judged_nor_extended(
    bench: Bench, change: Mapping[str, Any], words: str
) -> None:
    bench.store()
    case = replace(CASE, **change)
    outcome = bench.check(case=case)
    assert outcome.status is Status.CHANGED
    assert words in outcome.reason
    assert "record anew" in outcome.reason
    before = bench.path.read_text()
    with pytest.raises(MeasurementError, match=r"mine: not extended: .*record anew"):
        bench.record(case=case, extend=True)
    assert bench.path.read_text() == before
    assert bench.machine.processes == 0


def test_code_that_is_not_known_is_no_change(bench: Bench) -> None:
    bench.store(code="")
    assert bench.check().status is Status.PASS
    assert bench.check(case=replace(CASE, code="")).status is Status.PASS


@pytest.mark.parametrize(
    ("field", "value", "margin"),
    [("cpu", "b", 1.5), ("threads", 2, 1.5), ("python", "3.12", 0.25)],
)
def test_another_machines_baseline_is_held_widely_and_its_fields_are_named(
    bench: Bench, field: str, value: Any, margin: float
) -> None:
    bench.store(replace(CASE, machine={**HERE, field: value}))
    # Neither its speed nor its scatter is this machine's.
    slow: dict[str, Any] = {"references": {"own": 4e-3}}
    outcome = bench.check(8e-3, **slow)
    assert outcome.status is Status.PORTABLE
    assert f"machine.{field} {value} stored, {HERE[field]} here" in outcome.reason
    assert outcome.judgement is not None
    assert outcome.judgement.margin == margin
    red = bench.check(8e-3 * (1 + margin) * 1.2, **slow)
    assert red.status is Status.REGRESSION
    assert f"machine.{field}" in red.reason
    faster = bench.check(8e-3 / (1 + margin) / 1.2, **slow)
    assert faster.status is Status.PORTABLE


def test_of_other_machines_the_nearest_is_taken(bench: Bench) -> None:
    bench.store(replace(CASE, machine={**HERE, "cpu": "b"}), ratio=9.0)
    bench.store(replace(CASE, machine={**HERE, "python": "3.12", "torch": "2"}), ratio=2.0)
    outcome = bench.check()
    assert outcome.stored_ratio == pytest.approx(2.0, rel=0.01)
    assert "machine.cpu" not in outcome.reason


def test_this_machines_baseline_comes_before_others(recorded: Bench) -> None:
    recorded.store(replace(CASE, machine={**HERE, "cpu": "b"}), ratio=9.0)
    outcome = recorded.check()
    assert outcome.status is Status.PASS
    assert "another machine" not in outcome.reason


# Time


def test_a_slow_subject_is_held_to_the_time_limit_and_says_what_it_can_still_see(
    bench: Bench,
) -> None:
    bench.record_hours(0.4)
    bench.machine.process_noise = 0.1
    began = bench.machine.now
    outcome = bench.check(0.42, rules={"time_limit_s": 5.0}, case=replace(CASE, margin=0.01))
    took = bench.machine.now - began
    assert 5.0 <= took < 6.0
    # Each takes some 0.7 s: 0.3 to start, and a call of 0.4.
    assert 6 <= len(outcome.processes) <= 8
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.resolution is not None
    assert "these samples show changes of" in outcome.reason


def test_the_fewest_processes_are_measured_however_late_it_is(recorded: Bench) -> None:
    outcome = recorded.check(rules={"time_limit_s": 0.1})
    assert len(outcome.processes) == FEWEST
    assert outcome.judgement is not None


def test_a_red_is_confirmed_beyond_the_limit_but_not_for_long(bench: Bench) -> None:
    bench.record_hours(0.4)
    began = bench.machine.now
    outcome = bench.check(1.0, rules={"time_limit_s": 4.0})
    assert outcome.status is Status.REGRESSION
    assert bench.renewed
    assert bench.machine.now - began < 1.5 * 4.0 + 3 * 1.4


def test_the_time_limit_binds_recording_too(bench: Bench) -> None:
    outcome = bench.record(0.4, rules={"time_limit_s": 5.0})
    assert outcome.status is Status.RECORDED
    assert 5.0 <= bench.machine.now < 6.0
    assert len(bench.entry.processes) == len(outcome.processes) == bench.machine.processes
    assert 5 <= len(outcome.processes) <= 8


@pytest.mark.parametrize("seconds", [50e-9, 3e-6, 1e-3, 0.02, 0.4, 1.0])
def test_any_duration_is_recorded_and_judged_in_time(bench: Bench, seconds: float) -> None:
    references = {"interpreter": 3e-4, "memory": 5e-4, "arithmetic": 2e-4}
    case = replace(CASE, references=BUILT_IN)
    bench.record(seconds, case, references=references)
    # A last process may end beyond the limit.
    assert bench.machine.now < 60 + 5
    assert bench.entry.subject_s == pytest.approx(seconds, rel=0.01)
    began = bench.machine.now
    outcome = bench.check(seconds, case, references=references)
    assert bench.machine.now - began < 60 + 5
    assert outcome.status in (Status.PASS, Status.INCONCLUSIVE, Status.EXTEND)
    assert outcome.latency_s == pytest.approx(seconds, rel=0.01)
    assert len(outcome.processes) <= 36
    if seconds <= 0.01:
        assert bench.machine.now - began < 30
    assert bench.check(10 * seconds, case, references=references).status is Status.REGRESSION


def test_progress_is_told_after_each_process(recorded: Bench) -> None:
    told: list[int] = []
    opened = recorded.machine.opens(SECONDS)
    recorded.gate().check(CASE, opened, progress=told.append)
    assert told == [1, 2, 3, 4, 5, 6]


# Recording


def drifting(power: float, seconds: float) -> Callable[[int], float]:
    """A call that hangs on the machine's speed, which goes up and down by 15 %, with this power."""
    return lambda number: seconds * (1 + 0.15 * math.sin(number)) ** power


@pytest.mark.parametrize("best", BUILT_IN)
def test_the_reference_that_tracks_best_is_chosen_and_stored_by_name(
    bench: Bench, best: str
) -> None:
    references = {
        name: drifting(1.0 if name == best else 0.3, 4e-4 * (place + 1))
        for place, name in enumerate(BUILT_IN)
    }
    case = replace(CASE, references=BUILT_IN)
    outcome = bench.record(drifting(1.0, 2e-3), case, references=references)
    assert outcome.reference == best
    assert f"reference: {best}" in outcome.reason
    entry = bench.entry
    assert entry.reference == best
    assert entry.code == "code"
    assert entry.plan is not None
    # What follows measures no other one.
    bench.machine.blocks.clear()
    assert bench.check(drifting(1.0, 2e-3), case, references=references).status is not (
        Status.REGRESSION
    )
    assert {role for role, _ in bench.machine.blocks} == {"subject", best}


def test_what_is_stored_says_where_it_comes_from(bench: Bench) -> None:
    bench.record()
    (recording,) = bench.entry.recordings
    assert set(recording.recorded) == {"commit", "date"}
    assert recording.recorded["date"].endswith("Z")
    assert [one.server for one in recording.processes[:2]] == ["server 0", "server 1"]


def test_an_update_forgets_what_was_stored(recorded: Bench) -> None:
    recorded.record(2 * SECONDS)
    assert len(recorded.entry.recordings) == 1
    assert recorded.check(2 * SECONDS).status is Status.PASS


def test_other_records_of_the_file_stay(recorded: Bench) -> None:
    recorded.record(case=replace(CASE, name="other"))
    assert Baselines.read(recorded.path).names == {"mine", "other"}


def test_an_extension_that_crept_is_refused(recorded: Bench) -> None:
    before = recorded.path.read_text()

    def creep() -> None:
        for step in range(1, 11):
            recorded.record(1.01**step * SECONDS, extend=True)

    with pytest.raises(MeasurementError, match=r"mine: not extended: \+\d") as told:
        creep()
    assert "--update-baselines accepts other code" in str(told.value)
    assert "against what was recorded at 20" in str(told.value)
    assert len(recorded.entry.recordings) < 13
    recorded.path.write_text(before)
    recorded.record(extend=True)


def test_phases_of_other_code_are_not_added(bench: Bench) -> None:
    bench.record(phases=lambda seconds: {"parse": seconds / 2, "rest": seconds / 2})
    before = bench.path.read_text()
    with pytest.raises(Exception, match="mine: not extended: the stored phases"):
        bench.record(phases=lambda seconds: {"parse": seconds / 2}, extend=True)
    assert bench.path.read_text() == before


def test_the_phase_that_grew_is_named(bench: Bench) -> None:
    def phases(share: float) -> Callable[[float], Mapping[str, float]]:
        return lambda seconds: {"parse": share * seconds, "rest": (1 - share) * seconds}

    bench.record_hours(phases=phases(0.5))
    outcome = bench.check(1.5 * SECONDS, phases=phases(2 / 3))
    assert outcome.status is Status.REGRESSION
    assert outcome.grown is not None
    assert outcome.grown[0] == "parse"
    assert outcome.grown[1] == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("busy", ["always", "half of the processes", "a quarter of them"])
def test_what_others_disturbed_is_not_recorded(bench: Bench, busy: str) -> None:
    bench.machine.foreign = {
        "always": lambda process: 1.0,
        "half of the processes": lambda process: float(process % 2 or process % 20 == 0),
        "a quarter of them": lambda process: float(process % 4 == 0),
    }[busy]
    if busy == "a quarter of them":
        bench.record(0.02, **LONG)
        assert all(one.rounds for one in bench.entry.processes)
        assert len(bench.entry.processes) == 27
        return
    with pytest.raises(MeasurementError, match="mine: not recorded: others used the machine"):
        bench.record(0.02, **LONG)
    assert not bench.path.exists()


def test_what_shared_a_core_with_somebody_is_not_recorded(bench: Bench) -> None:
    def contended(number: int) -> float:
        return 1.5 if number % 4 == 0 else 1.0

    bench.record(
        lambda number: SECONDS * contended(number),
        references={"own": lambda number: 1e-3 * contended(number)},
    )
    assert len(bench.entry.processes) == 27
    assert max(one.reference_s for one in bench.entry.processes) < 1.1e-3


def test_notes_of_the_measured_processes_are_told_once(recorded: Bench) -> None:
    outcome = recorded.check(notes=["a tracer was switched off"])
    assert outcome.notes == ["a tracer was switched off"]


def test_every_process_is_closed_when_one_fails(recorded: Bench) -> None:
    opened = recorded.machine.opens(SECONDS)
    recorded.machine.foreign = lambda process: 1 / 0

    with pytest.raises(ZeroDivisionError):
        recorded.gate().check(CASE, opened)
    assert recorded.machine.open == 0


# Comparisons


def against(machine: Machine, head: Seconds, base: Seconds, **fields: Any) -> Outcome:
    rules = Rules(clock=machine.clock, watch=machine.watch)
    opened = machine.opens(head, {BASE: base}, **fields.pop("opens", {}))
    return compare(replace(CASE, **fields), opened, rules)


@pytest.mark.parametrize(
    ("scale", "status"),
    [(1.0, Status.PASS), (1.2, Status.REGRESSION), (0.8, Status.IMPROVED)],
)
def test_head_is_held_against_base(machine: Machine, scale: float, status: Status) -> None:
    outcome = against(machine, scale * SECONDS, SECONDS)
    assert outcome.status is status
    assert outcome.base_s == pytest.approx(SECONDS, rel=0.01)
    assert outcome.latency_s == pytest.approx(scale * SECONDS, rel=0.01)


def test_a_comparison_does_not_mind_the_machines_speed(machine: Machine) -> None:
    outcome = against(machine, drifting(1, SECONDS), drifting(1, SECONDS))
    assert outcome.status is Status.PASS


def test_a_comparison_judges_memory_and_limits_too(machine: Machine) -> None:
    limited = against(machine, SECONDS, SECONDS, max_s=SECONDS / 2)
    assert limited.status is Status.REGRESSION
    for grown, status in ((0, Status.PASS), (20_000_000, Status.REGRESSION)):
        outcome = against(
            machine,
            SECONDS,
            SECONDS,
            memory=True,
            opens={
                "peak_bytes": lambda process: 100_000_000 + process,
                "grown_bytes": grown,
            },
        )
        assert outcome.status is status
        assert outcome.memory is not None
        assert outcome.memory.change.value == pytest.approx(1 + grown / 1e8, rel=1e-3)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seconds=st.floats(5e-8, 1.0),
    reference=st.floats(1e-6, 0.1),
    noise=st.sampled_from([0.0, 0.003, 0.05]),
    limit=st.sampled_from([1.0, 10.0, 60.0]),
)
def test_whatever_is_measured_is_stored_read_again_and_not_red_unchanged(
    tmp_path: Path, seconds: float, reference: float, noise: float, limit: float
) -> None:
    bench = Bench(tmp_path, Machine(process_noise=noise))
    bench.path.unlink(missing_ok=True)
    opens: dict[str, Any] = {
        "references": {"own": reference},
        "rules": {"time_limit_s": limit},
    }
    bench.record(seconds, **opens)
    plan = bench.entry.plan
    assert plan is not None
    assert plan.loops * seconds > 4e-4
    outcome = bench.check(seconds, **opens)
    assert outcome.status in (Status.PASS, Status.INCONCLUSIVE, Status.EXTEND)
    least = inference.FEWEST
    assert len(outcome.processes) >= least
