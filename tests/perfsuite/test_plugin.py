"""The plugin as its users run it: a project of their own, callables of their own, a process of its own.

In the measured processes a clock of the tests' own runs, which only subjects move on: so that verdicts are
certain whatever else uses the machine.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from perfsuite.gate.baselines import Baselines
from perfsuite.session_report import EXIT_UNJUDGED
from tests.perfsuite.clocked import CLOCK, store

PROJECT = """
from clock import taking

def test_mine(latency_gate):
    latency_gate(taking(4e-3), taking(2e-3), name="mine", margin=40)
"""
TEST = "test_project.py::test_mine"


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess(*arguments)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_project=PROJECT, clock=CLOCK)
    pytester.makeini("[pytest]\nperf_processes = 4\nperf_looks = 2\nperf_servers = 1\n")
    return pytester


def report(project: pytest.Pytester) -> dict[str, Any]:
    subjects = json.loads((project.path / "report.json").read_text())["subjects"]
    return {subject["name"]: subject for subject in subjects}


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
            "change: +*margin 40.0%",
            "measured: *stored 1;*",
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
    assert float(properties["perf_ratio"] or "") > 1.5
    subject = report(project)["mine"]
    assert subject["verdict"] == "regression"
    # One look, and the one that confirmed it.
    assert (subject["looks"], subject["processes"]) == (2, 8)


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
    few = ["-o", "perf_processes=1", "-o", "perf_looks=1"]
    result = run(project, *few, "-o", f"perf_inconclusive={policy}")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["mine*inconclusive*"])


def test_a_missing_baseline_fails_with_the_command_that_records_it(
    project: pytest.Pytester,
) -> None:
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["mine: no-baseline: no baseline in *", f"record: pytest {TEST} --update-baselines"]
    )


@pytest.mark.parametrize(
    "part",
    [
        ["test_project.py"],
        ["-k", "mine"],
        ["--ignore", "test_other.py"],
        ["--lf"],
        ["--deselect", "x"],
    ],
    ids=" ".join,
)
def test_a_partial_run_never_fails_for_a_baseline_that_it_does_not_use(
    project: pytest.Pytester, part: list[str]
) -> None:
    project.makepyfile(test_other="def test_nothing(): pass")
    store(project, 2.0)
    store(project, 2.0, name="gone")
    assert run(project, *part, "-o", "perf_strict=true").ret == 0


def test_a_skipped_gate_does_not_make_a_baseline_unused_but_is_told(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        test_project=PROJECT
        + """
import pytest

@pytest.mark.skipif(True, reason="not on Tuesdays")
def test_gone(latency_gate):
    latency_gate(lambda: None, name="gone")
"""
    )
    store(project, 2.0)
    store(project, 2.0, name="gone")
    assert run(project).ret == 0
    result = run(project, "-o", "perf_strict=true", "--perf-report=report.json")
    assert result.ret == EXIT_UNJUDGED
    result.stdout.fnmatch_lines(["*test_gone*not-measured*not on Tuesdays"])
    assert report(project)["test_project.py::test_gone"]["verdict"] == "not-measured"


def test_a_whole_strict_run_names_unused_baselines(project: pytest.Pytester) -> None:
    store(project, 2.0)
    store(project, 2.0, name="gone")
    assert run(project).ret == 0
    result = run(project, "--perf-strict")
    assert result.ret == EXIT_UNJUDGED
    result.stdout.fnmatch_lines(["gone: a stored baseline that no test asked for*"])


@pytest.mark.parametrize("text", ["{", '{"schema": 99}', "<<<<<<< HEAD\n"])
def test_a_damaged_or_newer_file_fails_with_its_fault(project: pytest.Pytester, text: str) -> None:
    (project.path / "baselines.json").write_text(text)
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*baselines.json: *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_another_machine_is_named_by_its_fields_and_judged_widely(
    project: pytest.Pytester,
) -> None:
    store(project, 1.4, cpu="another processor")  # red here, but not by the wide margin
    result = run(project, "--perf-strict")
    assert result.ret == EXIT_UNJUDGED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mine*pass-elsewhere*machine.cpu*"])


def test_other_versions_on_this_processor_are_judged_less_widely(project: pytest.Pytester) -> None:
    store(project, 1.0, python="2.7")
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["mine: regression: *machine.python*"])


def test_update_records_what_the_next_run_accepts(project: pytest.Pytester) -> None:
    result = run(project, "--update-baselines")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mine*recorded*"])
    run(project).assert_outcomes(passed=1)
    (entry,) = Baselines.read(project.path / "baselines.json").entries
    assert entry.reference == "own"
    assert entry.code
    assert entry.recordings[0].recorded["date"]
    run(project, "--extend-baselines").assert_outcomes(passed=1)
    (entry,) = Baselines.read(project.path / "baselines.json").entries
    assert len(entry.recordings) == 2


def test_only_what_improved_is_ratcheted(project: pytest.Pytester) -> None:
    store(project, 2.0)
    run(project, "--update-baselines=improved").assert_outcomes(passed=1)
    (entry,) = Baselines.read(project.path / "baselines.json").entries
    assert entry.recordings[0].recorded["commit"] == "abc"
    store(project, 6.0)
    run(project, "--update-baselines=improved").assert_outcomes(passed=1)
    (entry,) = Baselines.read(project.path / "baselines.json").entries
    assert 1.5 < entry.ratio < 2.5


def test_a_changed_benchmark_is_no_verdict_on_speed(project: pytest.Pytester) -> None:
    run(project, "--update-baselines").assert_outcomes(passed=1)
    project.makepyfile(test_project=PROJECT.replace("4e-3", "40e-3"))
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["mine: benchmark-changed: *record anew*"])
    project.makepyfile(test_project=PROJECT.replace("import taking", "import taking  # a comment"))
    run(project).assert_outcomes(passed=1)


def test_a_slow_down_that_is_injected_turns_it_red(project: pytest.Pytester) -> None:
    store(project, 2.0)
    result = run(project, "--perf-slowdown", "mine=8")  # enough beside anybody
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["slowed on purpose: mine: *"])


def test_a_slow_down_of_a_name_that_no_gate_has_is_an_error(project: pytest.Pytester) -> None:
    store(project, 2.0)
    result = run(project, "--perf-slowdown", "other=3")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*no gate is called 'other'*"])


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--perf-slowdown", "mine"], "NAME=FACTOR"),
        (["--perf-slowdown", "mine=0.5"], "at least 1"),
        (["--perf-slowdown", "mine=2", "--update-baselines"], "not together"),
        (["--update-baselines", "--extend-baselines"], "not together"),
        (["--perf-head", "HEAD"], "only together"),
        (
            ["--perf-report", "none/report.json"],
            "--perf-report none/report.json: cannot be written",
        ),
        (["-o", "perf_looks=none"], "positive"),
        (["-o", "perf_strict=perhaps"], "true or false"),
        (["-o", "perf_margin=-1"], "positive"),
        (["-o", "perf_inconclusive=shrug"], "report, fail"),
    ],
)
def test_nonsense_is_refused_once_before_anything_is_measured(
    project: pytest.Pytester, option: list[str], named: str
) -> None:
    result = run(project, *option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = [line for line in result.stderr.lines if line.startswith("ERROR: ")]
    assert len(told) == 1
    assert named in told[0]


def test_a_phase_that_the_benchmark_does_not_have_is_named(project: pytest.Pytester) -> None:
    store(project, 2.0)
    result = run(project, "--perf-slowdown", "mine:lunch=2")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*mine has no phase 'lunch'*"])


def test_annotations_and_step_summary(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(project, 1.0)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    result = run(project)
    result.stdout.fnmatch_lines(["::error file=test_project.py,title=latency regression::mine*"])
    summary = (project.path / "summary.md").read_text()
    assert "| 🔴 | mine | regression |" in summary


@pytest.mark.parametrize("options", [["-n", "2"], ["--benchmark-only"]], ids=" ".join)
def test_a_gate_that_is_not_measured_is_told(project: pytest.Pytester, options: list[str]) -> None:
    store(project, 1.0)
    result = run(project, *options, "--perf-report=report.json", "--perf-strict")
    result.assert_outcomes(skipped=1)
    assert result.ret == EXIT_UNJUDGED
    result.stdout.fnmatch_lines(["*mine*not-measured*"])
    assert report(project)[TEST]["verdict"] == "not-measured"


@pytest.mark.parametrize(
    "options",
    [["-p", "no:cacheprovider", "-k", "mine", "-s"], ["-x", "--benchmark-disable", "-vv"]],
    ids=" ".join,
)
def test_it_works_beside_other_options(project: pytest.Pytester, options: list[str]) -> None:
    store(project, 2.0)
    run(project, *options).assert_outcomes(passed=1)


@pytest.mark.parametrize("place", [["-x", TEST], ["--", TEST], ["sub"]], ids=" ".join)
def test_a_test_may_follow_the_option_that_records(
    project: pytest.Pytester, place: list[str]
) -> None:
    below = project.path / "sub"
    below.mkdir()
    (below / "conftest.py").write_text("def pytest_addoption(parser): parser.addoption('--mine')\n")
    (below / "test_sub.py").write_text(
        "from clock import taking\n"
        "def test_mine(latency_gate): latency_gate(taking(4e-3), taking(2e-3))\n"
    )
    options = ["--mine=1"] if place == ["sub"] else []
    result = run(project, "-o", "pythonpath=.", *options, "--update-baselines", *place)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*recorded*"])


def test_another_way_to_record_is_refused_by_name(project: pytest.Pytester) -> None:
    result = run(project, "--update-baselines=all")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--update-baselines=all: must be improved, or nothing"])


def test_a_plugin_that_runs_tests_in_threads_is_asked_to_leave_gates_alone(
    project: pytest.Pytester,
) -> None:
    project.makeconftest(
        """
        def pytest_addoption(parser):
            parser.addoption("--parallel-threads", default=4)

        def pytest_configure(config):
            config.addinivalue_line("markers", "thread_unsafe: runs in one thread")

        def pytest_collection_modifyitems(items):
            alone = [item.name for item in items if item.get_closest_marker("thread_unsafe")]
            print("alone:", *alone)
        """
    )
    project.makepyfile(test_other="def test_other(): pass")
    result = run(project, "--collect-only", "-s")
    result.stdout.fnmatch_lines(["alone: test_mine"])


def test_collecting_measures_nothing(project: pytest.Pytester) -> None:
    result = run(project, "--co")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*latency gate*")


def test_pytest_benchmark_has_the_samples(project: pytest.Pytester) -> None:
    store(project, 2.0)
    run(project, "--benchmark-json=benchmark.json").assert_outcomes(passed=1)
    (benchmark,) = json.loads((project.path / "benchmark.json").read_text())["benchmarks"]
    assert benchmark["stats"]["rounds"] >= 4
    assert benchmark["stats"]["min"] >= 4e-3
    assert benchmark["extra_info"]["verdict"] == "pass"


def test_two_tests_with_one_name_are_both_named(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_project="""
        import pytest
        from clock import taking

        @pytest.mark.parametrize("size", [1, 2])
        def test_mine(size, latency_gate):
            latency_gate(taking(4e-3), taking(2e-3), name="mine")
        """
    )
    store(project, 2.0)
    result = run(project)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*two tests have a gate of this name: *[[]1]* and *[[]2]*"])


def test_several_gates_of_one_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_project="""
        from clock import taking

        def test_mine(latency_gate):
            for name in ("a", "b|c"):
                latency_gate(taking(4e-3), taking(2e-3), name=name, margin=40)
        """
    )
    store(project, 2.0, name="a")
    store(project, 1.0, name="b|c")
    result = run(project, "--perf-report=report.json")
    result.assert_outcomes(failed=1)
    assert {name: one["verdict"] for name, one in report(project).items()} == {
        "a": "pass",
        "b|c": "regression",
    }


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("latency_gate(lambda: {}['x'], len, name='mine')", "failed"),
        ("latency_gate(lambda: pytest.skip('later'), len, name='mine')", "skipped"),
    ],
)
def test_what_the_subject_raises_is_pytests_to_handle(
    project: pytest.Pytester, body: str, outcome: str
) -> None:
    project.makepyfile(test_project=f"import pytest\ndef test_mine(latency_gate):\n    {body}\n")
    store(project, 2.0)
    result = run(project)
    result.assert_outcomes(**{outcome: 1})


def test_an_expected_exception_is_expected(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_project="""
        import pytest

        @pytest.mark.xfail(raises=KeyError, strict=True)
        def test_mine(latency_gate):
            latency_gate(lambda: {}["x"], len, name="mine")
        """
    )
    store(project, 2.0)
    run(project).assert_outcomes(xfailed=1)


def test_a_limit_of_the_users_own_needs_no_baseline(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_project="""
        from clock import taking

        def test_mine(latency_gate):
            latency_gate(taking(4e-3), taking(2e-3), name="within", max_ms=400)

        def test_over(latency_gate):
            latency_gate(taking(4e-3), taking(2e-3), name="over", max_ms=1)
        """
    )
    result = run(project, "--perf-report=report.json")
    result.assert_outcomes(passed=1, failed=1)
    assert report(project)["over"]["verdict"] == "regression"
    result.stdout.fnmatch_lines(["over: regression: a call takes more than 1.00 ms*"])


def test_garbage_and_frozen_objects_stay_out_of_this_session(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_project=PROJECT
        + """
import gc

def test_leaks():
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()
"""
    )
    store(project, 2.0)
    run(project).assert_outcomes(passed=2)


def test_elsewhere_than_on_linux_a_gate_is_skipped_with_a_line(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import sys

        def pytest_runtest_call():
            sys.platform = "darwin"

        def pytest_runtest_teardown():
            sys.platform = "linux"
        """
    )
    result = run(project, "--perf-strict")
    result.assert_outcomes(skipped=1)
    assert result.ret == EXIT_UNJUDGED
    result.stdout.fnmatch_lines(
        ["*test_mine*not-measured*latency is measured on Linux only*darwin"]
    )


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    project: pytest.Pytester,
) -> None:
    result = run(project, "--update-baselines", "--perf-baselines", "none/baselines.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["baselines none/baselines.json: cannot be written: *"])


def test_a_packages_own_runtime_module_is_its_own(project: pytest.Pytester) -> None:
    project.makepyfile(
        runtime="VALUE = 3", test_project=PROJECT + "\nimport runtime\nassert runtime.VALUE == 3\n"
    )
    store(project, 2.0)
    run(project).assert_outcomes(passed=1)


def test_warnings_as_errors_and_strict_settings_are_the_users_to_choose(
    project: pytest.Pytester,
) -> None:
    store(project, 2.0)
    strict = ["--strict-markers", "--strict-config", "-W", "error", "-o", "filterwarnings=error"]
    run(project, *strict).assert_outcomes(passed=1)


def test_a_benchmark_ends_before_a_timeout_would_end_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_project="""
        import time, pytest

        @pytest.mark.timeout(10)
        def test_mine(latency_gate):
            latency_gate(lambda: time.sleep(0.25), name="mine")
        """
    )
    result = run(project, "--update-baselines", "-o", "perf_processes=50")
    result.stdout.no_fnmatch_line("*Timeout*")
