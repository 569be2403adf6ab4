"""What is reported of a session, and the exit status that its outcomes ask for."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from perfsuite.gate.outcome import Status
from perfsuite.session_report import EXIT_UNJUDGED, SessionReport
from tests.perfsuite.sessions import Bench, Made, collect, finish, gate


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("strict", [False, True])
def test_a_strict_run_accepts_only_what_was_judged(
    made: Made, status: Status, strict: bool
) -> None:
    session = made(bench=Bench(mine=status), strict=strict)
    session.whole = False
    try:
        gate(session)
    except pytest.fail.Exception:
        assert finish(session, pytest.ExitCode.TESTS_FAILED) is None
        return
    judged = status in (Status.PASS, Status.IMPROVED, Status.RECORDED)
    assert finish(session) == (EXIT_UNJUDGED if strict and not judged else None)


def test_a_name_that_no_gate_has_is_a_usage_error(made: Made) -> None:
    session = made(["mine=2", "none:such=2"])
    gate(session, phases=dict)
    assert session.unknown_delays == ["none"]
    assert finish(session) == pytest.ExitCode.USAGE_ERROR


def test_a_gate_that_was_not_reached_is_an_outcome(made: Made) -> None:
    session = made(strict=True)
    collect(session, "test_a.py::test_mine", "test_a.py::test_skipped")
    gate(session)
    report = Namespace(
        skipped=True,
        user_properties=[["perf_gated", True]],
        longrepr=("file", 3, "Skipped: not today"),
        nodeid="test_a.py::test_skipped",
    )
    session.pytest_runtest_logreport(cast("Any", report))
    assert finish(session) == EXIT_UNJUDGED
    assert [(one.node, one.status, one.reason) for one in session.outcomes[1:]] == [
        ("test_a.py::test_skipped", Status.NOT_MEASURED, "not today")
    ]
    # What it would have asked for is not known.
    assert SessionReport(session).unused == []


def test_only_a_whole_run_misses_baselines_that_no_test_asked_for(made: Made) -> None:
    session = made(strict=True)
    collect(session, "test_a.py::test_mine", "test_a.py::test_later")
    gate(session)
    assert SessionReport(session).unused == []
    gate(session, "later", node="test_a.py::test_later")
    assert SessionReport(session).unused == ["stored"]
    assert finish(session) == EXIT_UNJUDGED
    session.whole = False
    assert SessionReport(session).unused == []
    assert finish(session) is None


@pytest.mark.parametrize(
    "option",
    [{"keyword": "a"}, {"markexpr": "a"}, {"lf": True}, {"ignore": ["a"]}, {"deselect": ["a"]}],
)
def test_a_selection_is_no_whole_run(made: Made, option: Mapping[str, Any]) -> None:
    session = made()
    vars(session.config.option).update(option)
    collect(session, "test_a.py::test_mine")
    gate(session)
    assert SessionReport(session).unused == []


def test_the_report_holds_what_was_run_and_all_outcomes(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    session = made(report=path)
    vars(session.config)["invocation_params"] = Namespace(args=("-k", "a b"))
    collect(session, "test_a.py::test_mine")
    gate(session)
    assert finish(session) is None
    found = json.loads(path.read_text())
    assert found["command"] == "pytest -k 'a b'"
    assert found["whole"] is True
    assert found["machine"] == {"cpu": "a"}
    assert [one["verdict"] for one in found["subjects"]] == ["pass"]


def test_one_of_several_workers_reports_nothing(made: Made, tmp_path: Path) -> None:
    """The session that started them does."""
    session = made(report=tmp_path / "report.json", strict=True)
    vars(session.config)["workerinput"] = {}
    collect(session, "test_a.py::test_mine")
    assert finish(session) is None
    assert not (tmp_path / "report.json").exists()


def test_a_step_summary_gets_a_table(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    session = made()
    collect(session, "test_a.py::test_mine")
    gate(session)
    finish(session)
    text = summary.read_text()
    assert text.startswith("before\n")
    assert "Latency gate" in text
    assert "| mine | pass |" in text
