from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from perfsuite.gate.inference import Judgement, Verdict
from perfsuite.gate.outcome import FAILED, JUDGED, UNDECIDED, Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.statistics import Estimate


def process(ratio: float = 2.0, **fields: Any) -> Process:
    given: Mapping[str, Any] = {"subject_s": 1e-3 * ratio, "reference_s": 1e-3, "rounds": 4}
    return Process(math.log(ratio), **{**given, **fields})


def outcome(*processes: Process, **fields: Any) -> Outcome:
    return Outcome("mine", "test_a.py::test_mine", Status.PASS, "why", processes, **fields)


def test_every_status_is_accepted_undecided_failed_or_named_as_not_judged() -> None:
    # A regression was judged, and fails.
    assert {Status.PASS, Status.IMPROVED, Status.RECORDED} == JUDGED - FAILED
    assert not UNDECIDED & (FAILED | JUDGED)
    rest = set(Status) - JUDGED - FAILED - UNDECIDED
    assert rest == {Status.PORTABLE, Status.NOT_MEASURED, Status.ONE_SIDED}


def test_each_verdict_is_a_status() -> None:
    assert {Status(verdict.value) for verdict in Verdict} <= set(Status)


def test_figures_are_medians_of_the_processes_that_count() -> None:
    shown = outcome(process(2.0), process(2.1), process(2.2), process(9.0, rounds=0, disturbed=5))
    assert shown.ratio == pytest.approx(2.1)
    assert shown.latency_s == pytest.approx(2.1e-3)
    assert len(shown.shown) == 3
    assert shown.disturbed == 5
    disturbed = outcome(process(9.0, rounds=0), process(9.0, rounds=0))
    assert disturbed.ratio == pytest.approx(9.0)


def test_what_was_not_measured_has_no_figures() -> None:
    nothing = outcome()
    assert nothing.ratio is None
    assert nothing.latency_s is None
    assert nothing.phases == {}
    assert nothing.grown is None


def test_the_phase_that_grew_most_is_named() -> None:
    found = outcome(
        process(phases={"a": 1.0, "b": 1.5, "c": 0.5}),
        process(phases={"a": 1.2, "b": 1.5}),
        stored_phases={"a": 1.0, "b": 0.5, "d": 3.0},
    )
    assert found.phases == {"a": pytest.approx(1.1), "b": pytest.approx(1.5)}
    assert found.grown is not None
    assert found.grown[0] == "b"
    assert found.grown[1] == pytest.approx(1.0)
    shrunk = outcome(process(phases={"a": 1.0}), stored_phases={"a": 1.5})
    assert shrunk.grown is None


def told(one: Outcome, **options: Any) -> Any:
    """What a report of it holds, by way of JSON that has no NaN."""
    return json.loads(json.dumps(one.as_json(**options), allow_nan=False))


def test_a_report_holds_what_is_known() -> None:
    judgement = Judgement(Verdict.PASS, Estimate(1.01, 0.98, 1.04), 0.05, 2, "why")
    found = told(
        outcome(
            process(peak_bytes=100, server="a"),
            process(peak_bytes=200, server="b"),
            process(),
            judgement=judgement,
            memory=judgement,
            reference="own",
            stored_ratio=1.9,
            throughput=50.0,
            looks=1,
            notes=["a note"],
            base_s=2e-3,
            base_phases_s={"a": 1e-3},
            resolution=0.08,
        )
    )
    assert found["verdict"] == "pass"
    assert found["change"] == 1.01
    assert found["change_interval"] == [0.98, 1.04]
    assert found["margin"] == 0.05
    assert found["memory"] == {
        "verdict": "pass",
        "change": 1.01,
        "change_interval": [0.98, 1.04],
    }
    assert found["peak_bytes"] == 150
    assert found["throughput_per_s"] == pytest.approx(25_000)
    assert found["base_s"] == 2e-3
    assert found["resolution"] == 0.08
    assert found["samples"][1] == {
        "log_ratio": round(math.log(2), 6),
        "seconds": 2e-3,
        "reference_seconds": 1e-3,
        "server": "b",
        "rounds": 4,
    }


def test_a_report_of_what_is_not_known_is_json_all_the_same() -> None:
    unknown = Judgement(Verdict.INCONCLUSIVE, Estimate(math.nan, 0.0, math.inf), 0.05, 1, "too few")
    found = told(outcome(process(), judgement=unknown, memory=unknown))
    assert found["change"] is None
    assert found["change_interval"] is None
    assert found["memory"]["change"] is None
    assert "samples" not in told(outcome(), samples=False)
    assert told(outcome())["latency_s"] is None


def judgement(change: float) -> Judgement:
    return Judgement(Verdict.PASS, Estimate(change, change - 0.01, change + 0.01), 0.05, 12, "why")


@pytest.mark.parametrize("status", Status)
def test_only_a_baseline_that_could_not_decide_leaves_it_open(status: Status) -> None:
    found = outcome(process(), process(), process(rounds=0))
    found.status = status
    assert found.open == (status in UNDECIDED)
    found.processes = [process(), process(rounds=0)]  # others had the machine
    assert not found.open


def test_a_comparison_settles_what_the_baseline_left_open() -> None:
    found = outcome(process(2.0), judgement=judgement(1.08), looks=6)
    found.status = Status.EXTEND
    other = outcome(process(1.1), judgement=judgement(1.1), looks=2, notes=["a note"])
    other.status = Status.REGRESSION
    found.settle(other, "abc")
    assert (found.status, found.judgement, found.looks) == (Status.REGRESSION, other.judgement, 6)
    assert found.ratio == pytest.approx(2.0)
    assert found.reason == (
        "in turn with abc, whose code was recorded: why (against the baseline +8.0%: why)"
    )
    assert found.notes == ["a note"]


@pytest.mark.parametrize("status", sorted(set(Status) - JUDGED))
def test_a_comparison_without_a_verdict_leaves_it_open(status: Status) -> None:
    found = outcome(process(2.0), judgement=judgement(1.08))
    found.status = Status.EXTEND
    other = outcome(process(1.1))
    other.status = status
    before = found.judgement
    found.settle(other, "abc")
    assert (found.status, found.judgement) == (Status.EXTEND, before)
    assert "in turn with abc" in found.reason
