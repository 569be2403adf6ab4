from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from perfsuite.errors import UsageError
from perfsuite.gate.inference import Judgement, Verdict
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.gate.reported import Subject, read_report, reported
from perfsuite.statistics import Estimate


def outcome(change: Estimate) -> Outcome:
    process = Process(math.log(2.0), 3e-3, 1.5e-3, "a", {"parse": 1.5}, rounds=4)
    judgement = Judgement(Verdict.PASS, change, 0.02, 12, "why")
    return Outcome(
        "mine", "test_a.py::test_mine", Status.PASS, "why", [process], "own", judgement,
        notes=["a tracer was switched off"], throughput=6.0,
    )  # fmt: skip


def stored(folder: Path, **content: Any) -> Path:
    path = folder / "report.json"
    path.write_text(json.dumps(content))
    return path


def test_what_a_report_holds_is_read_again(tmp_path: Path) -> None:
    one = outcome(Estimate(1.1, 1.05, 1.15))
    path = stored(tmp_path, subjects=[one.as_json()], command="pytest", machine={"cpu": "Abacus"})
    report = read_report(path)
    (found,) = report.subjects
    assert (report.command, report.machine) == ("pytest", {"cpu": "Abacus"})
    assert found.change == Estimate(1.1, 1.05, 1.15)
    assert found.seconds == 3e-3
    assert found.throughput_per_s == pytest.approx(2000.0)
    assert found.known_phases == {"parse": 1.5}
    assert found.notes == ("a tracer was switched off",)
    assert len(found.samples) == 1


def test_an_outcome_is_reported_as_it_would_be_read() -> None:
    told = reported(outcome(Estimate(1.1, 1.05, 1.15)))
    assert told.change == Estimate(1.1, 1.05, 1.15)
    assert told.samples == ()


def test_a_change_that_is_not_known_is_none() -> None:
    assert reported(outcome(Estimate(math.nan, 0.0, math.inf))).change is None


def test_an_older_report_has_milliseconds() -> None:
    assert Subject(name="mine", verdict="pass", older_latency_ms=3.0).seconds == 3e-3
    assert Subject(name="mine", verdict="pass").seconds is None


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": None}, r"subjects\[0\]\.name: is missing"),
        ({"change": -1.0}, r"subjects\[0\]\.change: expected `float` > 0"),
        ({"change_interval": [2, 1]}, r"subjects\[0\]\.change_interval: must be an interval"),
        ({"processes": -1}, r"subjects\[0\]\.processes: expected `int` >= 0"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    path = stored(tmp_path, subjects=[{"name": "mine", "verdict": "pass", **changed}])
    with pytest.raises(UsageError, match=problem):
        read_report(path)
