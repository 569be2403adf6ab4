"""An outcome as a report holds it, read again."""

from __future__ import annotations

import json
import math

import msgspec
import pytest

from perfsuite.gate.inference import Judgement, Verdict
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.gate.reported import Subject, reported
from perfsuite.statistics import Estimate

ONE = Process(math.log(2.0), 3e-3, 1.5e-3, "a", phases={"device": 0.5}, rounds=4, disturbed=2)


@pytest.fixture
def outcome() -> Outcome:
    made = Outcome("mine", "test_a.py::test_mine", Status.PASS, "why", [ONE] * 3, "own")
    made.judgement = Judgement(Verdict.PASS, Estimate(1.1, 1.0, 1.2), 0.05, 3, "why")
    return made


def test_what_was_measured_is_read_again(outcome: Outcome) -> None:
    found = reported(outcome)
    assert (found.name, found.verdict, found.reason) == ("mine", "pass", "why")
    assert found.seconds == pytest.approx(3e-3)
    assert found.ratio == pytest.approx(2.0)
    assert found.processes == 3
    assert found.disturbed_rounds == 6
    assert found.known_phases == {"device": 0.5}
    assert found.change == Estimate(1.1, 1.0, 1.2)
    written = json.loads(json.dumps(outcome.as_json()))
    assert msgspec.convert(written, Subject).change == found.change


def test_what_was_not_measured_has_no_figures() -> None:
    found = reported(Outcome("mine", "a test", Status.NOT_MEASURED, "skipped"))
    assert found.verdict == "not-measured"
    assert (found.seconds, found.ratio, found.change) == (None, None, None)
    assert found.known_phases == {}


def test_a_report_of_before_had_milliseconds() -> None:
    older = {"name": "mine", "verdict": "pass", "latency_ms": 18.7}
    assert msgspec.convert(older, Subject).seconds == pytest.approx(0.0187)


@pytest.mark.parametrize(
    "wrong", [{"ratio": -1.0}, {"processes": -1}, {"phases": {"device": "x"}}, {"margin": -0.1}]
)
def test_a_damaged_report_is_refused_by_name(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.convert({"name": "mine", "verdict": "pass", **wrong}, Subject)
