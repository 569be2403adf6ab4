"""The plugin as its users run it: a project of their own, callables of their own, a process of its own."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from math import log
from pathlib import Path
from typing import Any

import pytest

from perfsuite.gate.baselines import Baselines, Entry, Process, Profile, fingerprint_of, write
from perfsuite.gate.pairing import ROUNDS, RUNS
from perfsuite.machine import fingerprint

WORKLOAD = {"model": "tiny", "tokens": 64, "device": "cpu"}

# Sleeping subjects: what they take over their yardstick hardly hangs on the machine.
PROJECT = """
import time

def test_mine(latency_gate):
    latency_gate(lambda: time.sleep(2e-3), lambda: time.sleep(1e-3), name="mine")
"""
TEST = "test_project.py::test_mine"


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "perfsuite.plugin", *arguments)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_project=PROJECT)
    pytester.makeini(
        """
        [pytest]
        perf_baselines = baselines.json
        perf_processes = 3
        perf_looks = 2
        """
    )
    return pytester


def store(project: pytest.Pytester, ratio: float, *, name: str = "mine", **machine: Any) -> Path:
    """Store that ``name`` took ``ratio`` times its yardstick, give or take 30 %."""
    path = project.path / "baselines.json"
    entry = Entry([Process([log(ratio)] * 8, 2.0 * ratio, 1.07, {})] * 6, 0.3)
    here = {**fingerprint_of(fingerprint(1)), **machine}
    write(path, Baselines([Profile(here, WORKLOAD, {"commit": "abc"}, {name: entry})]))
    return path


def test_green(project: pytest.Pytester) -> None:
    store(project, 2.0)
    result = run(project)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*latency gate*", "mine*pass*"])


def test_red_fails_in_the_call_phase_and_says_what_to_do(project: pytest.Pytester) -> None:
    store(project, 1.0)
    result = run(project, "--junitxml=junit.xml", "--perf-report=report.json")
    result.assert_outcomes(failed=1)  # an error would be another phase's
    result.stdout.fnmatch_lines(
        [
            "mine: regression:*",
            "change: +*margin 30.0%",
            "measured: *stored 1.000*",
            f"reproduce: pytest {TEST}",
            f"accept: pytest {TEST} --update-baselines",
        ]
    )
    case = ET.parse(project.path / "junit.xml").getroot().find(".//testcase")  # noqa: S314 - ours
    assert case is not None
    failure = case.find("failure")
    assert failure is not None
    assert len((failure.text or "").strip().splitlines()) <= 10
    properties = {item.get("name"): item.get("value") for item in case.iter("property")}
    assert properties["perf_verdict"] == "regression"
    assert float(properties["perf_ratio"] or "") > 1.3
    (subject,) = json.loads((project.path / "report.json").read_text())["subjects"]
    assert subject["verdict"] == "regression"
    # One look, and the one that confirmed it.
    assert (subject["looks"], subject["processes"]) == (2, 6)


def test_improved(project: pytest.Pytester) -> None:
    store(project, 6.0)
    result = run(project)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mine*improved*"])


@pytest.mark.parametrize(("policy", "outcome"), [("report", "passed"), ("fail", "failed")])
def test_inconclusive_is_what_the_project_wants_it_to_be(
    project: pytest.Pytester, policy: str, outcome: str
) -> None:
    store(project, 2.0)
    result = run(
        project, "-o", "perf_processes=1", "-o", "perf_looks=1", "-o", f"perf_inconclusive={policy}"
    )
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["mine*inconclusive*1 processes measured, 3 are the least"])


def test_a_missing_baseline_fails_with_the_command_that_records_it(
    project: pytest.Pytester,
) -> None:
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["mine: no baseline in *", f"record: pytest '{TEST}' --update-baselines"]
    )


def test_an_unused_baseline_fails_a_whole_run_but_not_a_part_of_it(
    project: pytest.Pytester,
) -> None:
    path = store(project, 2.0)
    data = json.loads(path.read_text())
    entries = data["profiles"][0]["entries"]
    entries["gone"] = entries["mine"]
    path.write_text(json.dumps(data))
    result = run(project)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*unused baseline*gone*"])
    assert run(project, "-k", "mine", TEST).ret == 0


@pytest.mark.parametrize("text", ["{", '{"schema": 99}'])
def test_a_damaged_or_newer_file_fails_with_its_fault(project: pytest.Pytester, text: str) -> None:
    (project.path / "baselines.json").write_text(text)
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*baselines.json: *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_another_machine_is_said_and_judged_widely(project: pytest.Pytester) -> None:
    store(project, 1.4, cpu="another processor")  # 1.4: red here, not by the wide margin
    result = run(project)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["this machine and workload have no baselines*", "mine*another*"])


def test_update_records_what_the_next_run_accepts(project: pytest.Pytester) -> None:
    result = run(project, "--update-baselines")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mine*recorded*"])
    again = run(project)
    again.assert_outcomes(passed=1)
    (profile,) = json.loads((project.path / "baselines.json").read_text())["profiles"]
    assert profile["recorded"]["date"]
    assert len(profile["entries"]["mine"]["processes"]) == 6


def test_a_slow_down_that_is_injected_turns_it_red(project: pytest.Pytester) -> None:
    store(project, 2.0)
    result = run(project, "--perf-slowdown", "mine=2")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["slowed on purpose: mine: *"])


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--perf-slowdown", "mine"], "NAME=FACTOR"),
        (["--perf-slowdown", "mine=0.5"], "at least 1"),
        (["--perf-slowdown", "mine:lunch=2"], "no phase"),
        (["--perf-slowdown", "mine=2", "--update-baselines"], "not together"),
        (["--perf-report", "none/report.json"], "cannot be written"),
        (["-o", "perf_looks=none"], "positive"),
        (["-o", "perf_inconclusive=shrug"], "report, fail"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(
    project: pytest.Pytester, option: list[str], named: str
) -> None:
    result = run(project, *option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{named}*"])


def test_annotations_and_step_summary(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(project, 1.0)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    result = run(project)
    result.stdout.fnmatch_lines(["::error file=*baselines.json,title=latency regression::mine*"])
    summary = (project.path / "summary.md").read_text()
    assert "| 🔴 | mine | regression |" in summary


def test_parallel_timing_is_refused_and_said(project: pytest.Pytester) -> None:
    store(project, 1.0)
    result = run(project, "-n", "2")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["LATENCY WAS NOT MEASURED*"])


@pytest.mark.parametrize(
    "options",
    [["-p", "no:cacheprovider"], ["-k", "mine"], ["-x"], ["--benchmark-disable"]],
    ids=" ".join,
)
def test_it_works_beside_other_options(project: pytest.Pytester, options: list[str]) -> None:
    store(project, 2.0)
    run(project, *options).assert_outcomes(passed=1)


def test_collecting_measures_nothing(project: pytest.Pytester) -> None:
    result = run(project, "--co")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*latency gate*")


def test_pytest_benchmark_has_the_samples(project: pytest.Pytester) -> None:
    store(project, 2.0)
    run(project, "--benchmark-json=benchmark.json").assert_outcomes(passed=1)
    (benchmark,) = json.loads((project.path / "benchmark.json").read_text())["benchmarks"]
    assert benchmark["stats"]["rounds"] == 3 * (1 + ROUNDS) * RUNS
    assert benchmark["stats"]["min"] >= 2e-3
    assert benchmark["extra_info"]["verdict"] == "pass"
