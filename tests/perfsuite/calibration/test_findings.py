from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.calibration.findings import Count, find
from perfsuite.calibration.runs import Kind, Run
from perfsuite.gate.reported import Subject
from tests.perfsuite.calibration.conftest import read

EQUAL, SLOWED, PHASE = Kind(), Kind(0.1), Kind(0.1, "device")


def run(kind: Kind, *subjects: Subject) -> Run:
    return Run(kind, {one.name: one for one in subjects})


RUNS = {
    EQUAL: [
        run(EQUAL, read("a"), read("b", "regression", change=1.2)),
        run(EQUAL, read("a", "inconclusive", change=None), read("b")),
        run(EQUAL, read("a")),
    ],
    SLOWED: [run(SLOWED, read("a", "regression", change=1.1))],
    PHASE: [
        run(PHASE, read("a", "regression", grew_most="device")),
        run(PHASE, read("a", "regression", grew_most="transport")),
    ],
    Kind(0.2): [],
}


def test_runs_and_benchmarks_are_counted_by_kind() -> None:
    found = find(RUNS)
    assert found.benchmarks == ["a", "b"]
    assert found.runs == {EQUAL: 3, SLOWED: 1, PHASE: 2}
    assert found.red_runs[EQUAL] == Count(1, 3)
    assert found.red_runs[SLOWED] == Count(1, 1)
    both = found.verdicts[EQUAL]
    assert (both["a"].red, both["a"].undecided) == (Count(0, 3), Count(1, 3))
    assert (both["b"].red, both["b"].undecided) == (Count(1, 2), Count(0, 2))
    assert found.verdicts[SLOWED]["b"].red == Count(0, 0)
    assert found.total[EQUAL].red == Count(1, 5)
    assert found.total[EQUAL].undecided == Count(1, 5)


def test_the_change_is_the_median_of_what_was_measured() -> None:
    found = find(RUNS)
    assert found.verdicts[SLOWED]["a"].change == pytest.approx(0.1)
    assert found.verdicts[EQUAL]["a"].change == 0.0  # of two of three
    assert found.verdicts[SLOWED]["b"].change is None


def test_the_phase_is_named_right_in_so_many_of_the_red() -> None:
    found = find(RUNS)
    assert found.total[PHASE].phase_named == Count(1, 2)
    assert found.total[SLOWED].phase_named == Count(0, 0)


def test_nothing_is_found_in_nothing() -> None:
    found = find({EQUAL: []})
    assert (found.runs, found.benchmarks) == ({}, [])


def test_a_count_shows_its_exact_interval() -> None:
    assert str(Count(0, 30)) == "0 of 30 [0%, 12%]"
    assert str(Count(30, 30)) == "30 of 30 [88%, 100%]"
    assert str(Count(0, 0)) == "-"


@given(st.integers(1, 200).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_an_interval_has_its_share(count: tuple[int, int]) -> None:
    rate = Count(*count).rate
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
