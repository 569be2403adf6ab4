"""The measuring session on a bench that measures nothing: whatever outcome is wanted."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest

from perfsuite.errors import BenchmarkError
from perfsuite.gate.outcome import Status
from perfsuite.processes.benchmark import TOTAL
from tests.perfsuite.sessions import Bench, Made, gate


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


def test_a_phase_of_a_benchmark_without_phases_is_named(made: Made) -> None:
    with pytest.raises(BenchmarkError, match="mine has no phase 'parse'"):
        gate(made(["mine:parse=2"]))


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
