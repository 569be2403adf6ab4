"""An outcome as a report holds it, read again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from perfsuite.errors import UsageError
from perfsuite.gate.inference import Judgement, Verdict
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.gate.reported import Subject, read_report, reported
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


def test_a_runs_report_is_read_again(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    content = {"subjects": [outcome.as_json()], "command": "pytest", "machine": {"cpu": "Abacus"}}
    path.write_text(json.dumps(content))
    report = read_report(path)
    assert (report.command, report.machine, report.titles) == ("pytest", {"cpu": "Abacus"}, None)
    assert [len(one.samples) for one in report.subjects] == [3]


def test_a_change_that_is_not_known_is_none(outcome: Outcome) -> None:
    unknown = Estimate(math.nan, 0.0, math.inf)
    outcome.judgement = Judgement(Verdict.INCONCLUSIVE, unknown, 0.05, 3, "why")
    assert reported(outcome).change is None


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": None}, r"subjects\[0\]\.name: is missing"),
        ({"change": -1.0}, r"subjects\[0\]\.change: expected `float` > 0"),
        ({"change_interval": [2, 1]}, r"subjects\[0\]\.change_interval: must be an interval"),
    ],
)
def test_a_damaged_file_is_named_with_its_field(
    tmp_path: Path, changed: dict[str, object], problem: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"subjects": [{"name": "mine", "verdict": "pass", **changed}]}))
    with pytest.raises(UsageError, match=f"^{path}: {problem}"):
        read_report(path)


def test_an_interval_without_an_end_can_be_shown(outcome: Outcome) -> None:
    wide = Estimate(1.1, 0.0, math.inf)
    outcome.judgement = Judgement(Verdict.INCONCLUSIVE, wide, 0.05, 3, "why")
    assert reported(outcome).change == wide
