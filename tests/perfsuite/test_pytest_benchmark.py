"""What pytest-benchmark is told: each process's seconds, by a clock that goes on by just those."""

from __future__ import annotations

import pytest

from perfsuite.pytest_benchmark import _Replay

# A session of its own, because it takes one result a test. The outcome is made up, the table is the real one.
TEST = """
import math
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.pytest_benchmark import replay

def outcome(name, *seconds):
    processes = [Process(0.1, one, 1e-3, "a", rounds=2) for one in seconds]
    return Outcome(name, "a test", Status.PASS, "why", processes, "own")

def test_it(request):
    replay(request, outcome("first", 2e-3, 3e-3, 5e-3), {"cpu": "Abacus 9"}, slowed=False)
    replay(request, outcome("second", 1.0), {}, slowed=False)

def test_own(request, benchmark):
    benchmark(len, "a")
    replay(request, outcome("mine", 1.0), {}, slowed=False)

def test_nothing(request):
    replay(request, outcome("mine"), {}, slowed=False)
"""


def test_a_test_s_first_gate_is_in_the_table_with_its_seconds(pytester: pytest.Pytester) -> None:
    import json

    pytester.makepyfile(TEST)
    result = pytester.runpytest_subprocess("--benchmark-json=found.json")
    result.assert_outcomes(passed=3)
    found = json.loads((pytester.path / "found.json").read_text())["benchmarks"]
    assert [one["name"] for one in found] == ["test_it", "test_own"]
    assert found[0]["stats"]["rounds"] == 3
    assert found[0]["stats"]["median"] == pytest.approx(3e-3)
    assert found[0]["stats"]["max"] == pytest.approx(5e-3)
    assert found[0]["extra_info"]["subject"] == "first"
    assert found[0]["extra_info"]["machine"] == {"cpu": "Abacus 9"}
    assert found[1]["extra_info"] == {}


@pytest.mark.parametrize("options", [["-p", "no:benchmark"], ["--benchmark-disable"]], ids=" ".join)
def test_where_it_is_not_in_use_nothing_is_told(
    pytester: pytest.Pytester, options: list[str]
) -> None:
    pytester.makepyfile(test_a=TEST)
    nodes = ["test_a.py::test_it", "test_a.py::test_nothing"]
    result = pytester.runpytest_subprocess(*nodes, *options)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*benchmark: *tests*")


def test_the_clock_stands_still_but_for_a_run() -> None:
    clock = _Replay(iter([0.5, 0.25]))
    assert clock() == clock() == 0.0
    clock.run()
    clock.run()
    assert clock() == 0.75
