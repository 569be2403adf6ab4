"""The fixture, as a test calls it: what it makes of its arguments, on a session that measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from perfsuite.latency_gate import SESSION, LatencyGate, pytest_itemcollected
from perfsuite.processes.benchmark import Benchmark


class Session:
    """Notes the benchmarks that it is given."""

    def __init__(self) -> None:
        self.seen: list[Benchmark] = []

    def gate(self, request: Any, benchmark: Benchmark) -> str:
        self.seen.append(benchmark)
        return f"the outcome of {benchmark.name}"

    def delays(self, name: str) -> Mapping[str, float]:
        return {name: 2.0}


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def gate(session: Session) -> LatencyGate:
    stash = pytest.Stash()
    stash[SESSION] = session
    request = SimpleNamespace(
        node=SimpleNamespace(nodeid="test_a.py::test_it"), config=SimpleNamespace(stash=stash)
    )
    return LatencyGate(request)  # type: ignore[arg-type]


def test_a_gate_is_called_as_its_test_and_gives_back_its_outcome(
    gate: LatencyGate, session: Session
) -> None:
    assert gate(len) == "the outcome of test_a.py::test_it"
    (seen,) = session.seen
    assert seen.subject is len
    assert (seen.reference, seen.margin, seen.max_s, seen.fork) == (None, None, None, None)


def test_percent_and_milliseconds_become_shares_and_seconds(
    gate: LatencyGate, session: Session
) -> None:
    gate(len, sorted, name="mine", margin=5, max_ms=20, args=[[1]], workload={"size": 3})
    (seen,) = session.seen
    assert (seen.name, seen.reference, seen.args) == ("mine", sorted, ([1],))
    assert seen.margin == pytest.approx(0.05)
    assert seen.max_s == pytest.approx(0.02)
    assert seen.workload == {"size": 3}


def test_each_gate_of_a_test_has_a_name_of_its_own(gate: LatencyGate, session: Session) -> None:
    gate(len, name="one")
    gate(len, name="two")
    with pytest.raises(pytest.fail.Exception, match="two: this test has a gate of this name"):
        gate(len, name="two")
    assert len(session.seen) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"margin": "5"}, r"latency_gate\(margin='5'\): must be a number"),
        ({"max_ms": True}, r"latency_gate\(max_ms=True\): must be a number"),
        ({"margin": -1}, "margin"),
        ({"quantile": 2}, "quantile"),
        ({"name": ""}, "name"),
    ],
)
def test_what_cannot_be_gated_fails_its_test_without_a_traceback(
    gate: LatencyGate, session: Session, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(pytest.fail.Exception, match=problem) as caught:
        gate(len, **arguments)
    assert caught.value.pytrace is False
    assert session.seen == []


def test_a_command_that_is_none_fails_its_test(gate: LatencyGate) -> None:
    assert list(gate.command(["true", "-x"]).arguments) == ["true", "-x"]
    with pytest.raises(pytest.fail.Exception):
        gate.command([])


def test_delays_are_the_sessions(gate: LatencyGate) -> None:
    assert gate.delays("mine") == {"mine": 2.0}


@pytest.mark.parametrize(
    ("fixtures", "option", "alone"),
    [
        (["latency_gate"], {"parallel_threads": 4}, True),
        (["latency_gate"], {}, False),
        (["tmp_path"], {"parallel_threads": 4}, False),
    ],
)
def test_a_gated_test_is_left_alone_by_whoever_runs_tests_in_threads(
    fixtures: list[str], option: dict[str, Any], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytest.mark, "_config", None)  # which knows our own marks only
    marks: list[Any] = []
    item = SimpleNamespace(
        fixturenames=fixtures,
        config=SimpleNamespace(option=SimpleNamespace(**option)),
        add_marker=marks.append,
    )
    pytest_itemcollected(item)  # type: ignore[arg-type]
    assert [mark.name for mark in marks] == (["thread_unsafe"] if alone else [])
