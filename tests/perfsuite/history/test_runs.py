from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfsuite.errors import UsageError
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.history import store
from perfsuite.history.runs import Run, extra_info, parse_run
from perfsuite.schema import parse_json

Document = Callable[..., dict[str, Any]]


def parsed(content: dict[str, Any]) -> Run:
    return parse_run(parse_json(json.dumps(content), "f.json"), Path("f.json"))


def test_the_gates_figures_are_read(document: Document) -> None:
    budgets = {"rpc_count": 32}
    content = document(3, ratio=1.5, phases={"device": 0.9}, budgets=budgets)
    (measurement,) = parsed(content).measurements
    assert measurement.subject == "fused"
    assert measurement.workload == "tiny, 64 tokens, cpu"
    assert measurement.machine == "Abacus 9 (25.17), 2 cores, 1 thread"
    assert measurement.versions == {"torch": "2.13.0", "python": "3.11.7", "kernel": "6.1"}
    assert measurement.ratio == 1.5
    assert measurement.seconds == 0.002
    assert measurement.verdict == "pass"
    assert measurement.phases == {"device": 0.9}
    assert measurement.budgets == budgets


def test_what_the_gate_writes_is_what_is_read(document: Document) -> None:
    content = document()
    written = extra_info(
        {"name": "x", "ratio": 2.0, "latency_ms": 3.0, "verdict": "pass"},
        subject="mine",
        machine={"cpu": "Abacus 9", "gpu": None, "torch": "2.13.0"},
        workload={"model": "tiny", "tokens": 8, "device": "cpu"},
        budgets={"rpc_count": 5},
    )
    content["benchmarks"][0]["extra_info"] = json.loads(json.dumps(written))
    (measurement,) = parsed(content).measurements
    assert measurement.subject == "mine"
    assert measurement.workload == "tiny, 8 tokens, cpu"
    assert measurement.machine == "Abacus 9"
    assert measurement.budgets == {"rpc_count": 5}


def test_an_outcome_of_the_gate_is_read(document: Document) -> None:
    one = Process(math.log(2.0), 3e-3, 1.5e-3, phases={"device": 0.5}, rounds=4)
    outcome = Outcome("mine", "test_a.py::test_mine", Status.PASS, "why", [one], "own")
    content = document()
    content["benchmarks"][0]["extra_info"] = extra_info(
        outcome.as_json(samples=False), subject="mine", machine={"cpu": "Abacus 9"}, workload={}
    )
    (measurement,) = parsed(content).measurements
    assert measurement.subject == "mine"
    assert measurement.seconds == 3e-3
    assert measurement.ratio == pytest.approx(2.0)
    assert measurement.phases == {"device": 0.5}
    del content["benchmarks"][0]["extra_info"]["latency_s"]
    with pytest.raises(UsageError, match=r"extra_info\.latency_s: is missing"):
        parsed(content)


def test_what_was_slowed_on_purpose_is_left_out(document: Document) -> None:
    assert parsed(document(ratio=1.0, slowed=True)).measurements == ()


@pytest.mark.parametrize("ratio", [None, float("nan")])
def test_what_could_not_be_measured_is_left_out(document: Document, ratio: float | None) -> None:
    content = document(ratio=1.0)
    content["benchmarks"][0]["extra_info"]["ratio"] = ratio
    assert parsed(content).measurements == ()


def test_a_foreign_file_gives_seconds_by_its_full_name(document: Document) -> None:
    (measurement,) = parsed(document(seconds=0.25)).measurements
    assert measurement.subject == "perfsuite/test_latency.py::test_latency[fused]"
    assert measurement.ratio is None
    assert measurement.seconds == 0.25
    assert measurement.machine == "Abacus 9, 2 cores"
    assert measurement.versions == {"python": "3.11.7", "kernel": "6.1"}


def test_a_run_without_a_commit_is_as_old_as_itself(document: Document) -> None:
    content = document(commit="unversioned")
    content["commit_info"]["time"] = None
    run = parsed(content)
    assert run.commit == ""
    assert run.committed == run.started


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda d: d.pop("benchmarks"), "f.json: benchmarks: is missing"),
        (lambda d: d.update(benchmarks={}), "f.json: benchmarks: expected `array`"),
        (lambda d: d.update(datetime="yesterday"), "f.json: datetime: must be a date"),
        (lambda d: d["commit_info"].update(id=3), "f.json: commit_info.id: expected `str"),
        (lambda d: d.update(machine_info=[]), "machine_info: expected `object`"),
        (
            lambda d: d["benchmarks"][0]["stats"].update(median=-1),
            r"benchmarks\[0\].stats.median: expected `float` > 0",
        ),
        (
            lambda d: d["benchmarks"][0].update(extra_info={"ratio": float("nan")}),
            r"benchmarks\[0\].extra_info.ratio: expected `float` > 0",
        ),
        (
            lambda d: d["benchmarks"][0].update(extra_info={"ratio": 10**400}),
            "must be a finite number",
        ),
        (
            lambda d: d["benchmarks"][0].update(
                extra_info={
                    "ratio": 1,
                    "latency_ms": 1,
                    "change": 1,
                    "change_interval": [2, 1],
                }
            ),
            "change_interval: must be an interval",
        ),
    ],
)
def test_what_is_damaged_is_named(
    document: Document, break_it: Callable[[dict[str, Any]], object], problem: str
) -> None:
    content = document()
    break_it(content)
    with pytest.raises(UsageError, match=problem):
        parsed(content)


def test_one_damaged_benchmark_costs_no_other(document: Document) -> None:
    content = document(ratio=1.5)
    bad = json.loads(json.dumps(content["benchmarks"][0]))
    bad["extra_info"]["latency_ms"] = float("nan")
    content["benchmarks"].append(bad)
    run = parsed(content)
    assert [measurement.subject for measurement in run.measurements] == ["fused"]
    (line,) = run.damaged
    assert "benchmarks[1].extra_info.latency_ms: expected `float` > 0" in line


def test_two_series_of_one_name_in_one_file_are_two(document: Document) -> None:
    content = document(ratio=1.5)
    other = json.loads(json.dumps(content["benchmarks"][0]))
    other["fullname"] = "other/test_latency.py::test_latency[fused]"
    content["benchmarks"].append(other)
    assert [measurement.subject for measurement in parsed(content).measurements] == [
        "perfsuite/test_latency.py::test_latency[fused]",
        "other/test_latency.py::test_latency[fused]",
    ]


def test_pytest_benchmark_writes_what_is_read_and_lists_what_is_added(
    pytester: pytest.Pytester, document: Document
) -> None:
    """Its own autosave is read; an added run is one of its runs; ``compare`` shows both."""
    pytester.makepyfile("def test_sum(benchmark): benchmark(sum, [1, 2])")
    result = pytester.runpytest_subprocess("--benchmark-autosave", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    folder = pytester.path / ".benchmarks"
    (first,) = store.read(folder).runs
    (measurement,) = first.measurements
    assert measurement.subject.endswith("::test_sum")
    assert measurement.seconds > 0

    content = json.loads(first.path.read_text())
    content["datetime"] = "2030-01-01T00:00:00+00:00"
    source = pytester.path / "other.json"
    source.write_text(json.dumps(content))
    added = store.add(folder, source)
    assert added is not None
    assert added.parent == first.path.parent
    assert added.name.startswith("0002_")
    listed = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "--storage", f"file://{folder}", "compare"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "0001_" in listed
    assert "0002_" in listed
