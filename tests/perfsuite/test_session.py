"""The measuring session on a bench that measures nothing: whatever outcome is wanted."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest

from perfsuite import settings
from perfsuite.errors import BenchmarkError
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate_progress import GateProgress
from perfsuite.processes.benchmark import TOTAL, Benchmark
from perfsuite.session import MeasuringSession
from perfsuite.session_report import EXIT_UNJUDGED, SessionReport


class Bench:
    """Gives outcomes by the names of benchmarks, and notes how these were to be slowed."""

    def __init__(self, **statuses: Status) -> None:
        self.statuses = statuses
        self.delays: dict[str, Mapping[str, float]] = {}
        self.machine, self.titles = {"cpu": "a"}, None
        self.closed = 0

    def check(self, item: Any, benchmark: Benchmark, delays: Any, progress: Any) -> Outcome:
        self.delays[benchmark.name] = delays
        status = self.statuses.get(benchmark.name, Status.PASS)
        return Outcome(benchmark.name, item.nodeid, status, "why")

    def unused(self, names: set[str]) -> list[str]:
        return sorted({"stored", "mine"} - names)

    def close(self) -> None:
        self.closed += 1


Made = Callable[..., MeasuringSession]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Return what makes a session with these settings, whose benchmarks have these statuses."""

    def make(
        delays: list[str] | None = None, bench: Bench | None = None, **fields: Any
    ) -> MeasuringSession:
        given = settings.Settings(update=None, baselines=None, report=None)
        given = replace(given, delays=settings.parse_delays(delays or []), **fields)
        monkeypatch.setattr(settings, "read", lambda config: given)
        config = Namespace(
            args_source=pytest.Config.ArgsSource.TESTPATHS,
            option=Namespace(),
            pluginmanager=Namespace(hasplugin=lambda name: False, getplugin=lambda name: None),
        )
        session = MeasuringSession(cast("pytest.Config", config))
        session._bench = cast("Any", bench or Bench())
        return session

    return make


def gate(
    session: MeasuringSession, name: str = "mine", node: str = "test_a.py::test_mine", **fields: Any
) -> Outcome:
    request = Namespace(
        node=Namespace(nodeid=node, user_properties=[]),
        config=session.config,
    )
    return session.gate(cast("Any", request), Benchmark(name, len, **fields))


def collect(session: MeasuringSession, *nodes: str) -> None:
    items = [Namespace(nodeid=node, fixturenames=["latency_gate"]) for node in nodes]
    session.collected(cast("Any", Namespace(items=[*items, Namespace(nodeid="other")])))


def finish(session: MeasuringSession, status: int = 0) -> int | None:
    return SessionReport(session).finish(status)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("fails", [False, True])
def test_each_status_passes_or_fails_its_test(made: Made, status: Status, fails: bool) -> None:
    session = made(bench=Bench(mine=status), inconclusive_fails=fails)
    failing = {Status.REGRESSION, Status.CHANGED, Status.NO_BASELINE}
    if fails:
        failing |= {Status.INCONCLUSIVE, Status.UNKNOWN_SPEED, Status.EXTEND}
    if status in failing:
        with pytest.raises(pytest.fail.Exception, match=f"mine: {status.value}: why"):
            gate(session)
    else:
        gate(session)
    (outcome,) = session.outcomes
    assert outcome.failed is (status in failing)


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


def test_a_rerun_takes_the_place_of_what_was_before(made: Made) -> None:
    session = made()
    gate(session)
    gate(session)
    assert len(session.outcomes) == 1


def test_one_name_for_two_tests_names_both(made: Made) -> None:
    session = made()
    gate(session, node="test_a.py::test_it[1]")
    with pytest.raises(BenchmarkError, match=r"test_it\[1\] and test_a.py::test_it\[2\]"):
        gate(session, node="test_a.py::test_it[2]")


@pytest.mark.parametrize(
    ("texts", "name", "delays"),
    [
        (["mine=2"], "mine", {TOTAL: 2.0}),
        (["*=2"], "mine", {TOTAL: 2.0}),
        (["*=2", "mine=3"], "mine", {TOTAL: 3.0}),
        (["mine:parse=2"], "mine", {"parse": 2.0}),
        (["mine=2"], "other", {}),
        # A name with a colon, whose end looks like a phase.
        (["json:loads=2"], "json:loads", {TOTAL: 2.0}),
        (["a:b:c=2"], "a:b:c", {TOTAL: 2.0}),
        (["test_a.py::test_it=2"], "test_a.py::test_it", {TOTAL: 2.0}),
    ],
)
def test_benchmarks_are_slowed_by_name(
    made: Made, texts: list[str], name: str, delays: Mapping[str, float]
) -> None:
    bench = Bench()
    session = made(texts, bench)
    gate(session, name, phases=dict)
    assert bench.delays == {name: delays}
    assert session.unknown_delays == ([] if delays else ["mine"])


def test_a_name_that_no_gate_has_is_a_usage_error(made: Made) -> None:
    session = made(["mine=2", "none:such=2"])
    gate(session, phases=dict)
    assert session.unknown_delays == ["none"]
    assert finish(session) == pytest.ExitCode.USAGE_ERROR


def test_a_phase_of_a_benchmark_without_phases_is_named(made: Made) -> None:
    with pytest.raises(BenchmarkError, match="mine has no phase 'parse'"):
        gate(made(["mine:parse=2"]))


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


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_a_gate_skips_with_one_clear_line(
    made: Made, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(pytest.skip.Exception, match=f"on Linux only, .* skipped on {platform}"):
        gate(made())


def test_in_parallel_a_gate_skips(made: Made) -> None:
    session = made()
    session.config.option.numprocesses = 2
    with pytest.raises(pytest.skip.Exception, match="not measured in parallel"):
        gate(session)


def test_progress_is_told_after_two_seconds_and_then_every_five(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    config = Namespace(pluginmanager=Namespace(getplugin=lambda name: None))
    progress = GateProgress(cast("Any", config), "mine", lambda: now)
    told = []
    for seconds in range(15):
        now = float(seconds)
        progress(seconds)
        if capsys.readouterr().err:
            told.append(seconds)
    assert told == [2, 7, 12]
    now = 20.0
    progress(9)
    assert capsys.readouterr().err == "latency gate: mine: 9 processes, 20 s\n"


def test_progress_is_seen_though_pytest_captures(capsys: pytest.CaptureFixture[str]) -> None:
    opened = []

    class Manager:
        def global_and_fixture_disabled(self) -> nullcontext[None]:
            opened.append(1)
            return nullcontext()

    now = 0.0
    config = Namespace(pluginmanager=Namespace(getplugin=lambda name: Manager()))
    progress = GateProgress(cast("Any", config), "mine", lambda: now)
    now = 3.0
    progress(4)
    assert opened == [1]
    assert capsys.readouterr().err == "\nlatency gate: mine: 4 processes, 3 s"
