"""A benchmark whose baseline cannot decide is measured in turn with the commit that was recorded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from perfsuite.bench import settle
from perfsuite.compare.revisions import Revision
from perfsuite.gate.inference import Judgement, Verdict
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.provenance import CHANGED
from perfsuite.statistics import Estimate
from tests.perfsuite.clocked import CLOCK, store

PROJECT = """
from clock import taking
from work import SECONDS

def test_mine(latency_gate):
    latency_gate(taking(SECONDS), taking(2e-3), name="mine", margin=5)
"""
# Recordings that lie so far apart that a tenth more may be an hour of the machine.
APART = (1.8, 2.0, 2.2)
SLOWER = "SECONDS = 4.5e-3\n"


def git(project: pytest.Pytester, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(project.path), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(project: pytest.Pytester) -> str:
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "a change")
    return git(project, "rev-parse", "HEAD")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A repository of one commit, in which the subject takes twice its reference's time."""
    pytester.makepyfile(test_project=PROJECT, clock=CLOCK, work="SECONDS = 4e-3\n")
    pytester.makeini(
        "[pytest]\npythonpath = .\nperf_processes = 4\nperf_looks = 2\nperf_servers = 1\n"
    )
    (pytester.path / ".gitignore").write_text(
        "__pycache__/\n.pytest_cache/\nreport.json\nshallow\nrunpytest-*\nstd*\n"
    )
    git(pytester, "init", "--quiet", "--initial-branch=main")
    commit(pytester)
    return pytester


def run(project: pytest.Pytester, *options: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    result = project.runpytest_subprocess("--perf-report=report.json", *options)
    (found,) = json.loads((project.path / "report.json").read_text())["subjects"]
    return result, found


def change(project: pytest.Pytester, text: str = SLOWER) -> None:
    (project.path / "work.py").write_text(text)


def test_what_became_slower_is_red(project: pytest.Pytester) -> None:
    recorded = git(project, "rev-parse", "HEAD")
    store(project, *APART, commit=recorded[:12])
    change(project)
    result, found = run(project)
    result.assert_outcomes(failed=1)
    assert found["verdict"] == "regression"
    assert found["change"] == pytest.approx(4.5 / 4, rel=0.01)
    # What the gate itself measured stays: the history goes on with it.
    assert (found["reference"], found["ratio"]) == ("own", pytest.approx(2.25, rel=0.01))
    words = found["reason"]
    assert f"in turn with {recorded[:10]}, whose code was recorded: the interval" in words
    assert "(against the baseline +12." in words
    assert not (project.path / ".git" / "worktrees").exists()


def test_what_only_the_machine_made_slower_passes(project: pytest.Pytester) -> None:
    change(project)  # so much slower than any recording
    recorded = commit(project)
    store(project, *APART, commit=recorded[:12])
    result, found = run(project, "--perf-strict")
    assert found["verdict"] == "pass"
    assert found["change"] == pytest.approx(1.0, rel=0.01)
    result.assert_outcomes(passed=1)
    assert result.ret == 0


def test_a_slow_down_that_is_injected_is_red(project: pytest.Pytester) -> None:
    store(project, *APART, commit=git(project, "rev-parse", "HEAD"))
    _, found = run(project, "--perf-slowdown", "mine=1.12")
    assert found["verdict"] == "regression"


def test_it_can_be_switched_off(project: pytest.Pytester) -> None:
    store(project, *APART, commit=git(project, "rev-parse", "HEAD"))
    change(project)
    _, found = run(project, "-o", "perf_in_turn=false")
    assert (found["verdict"], found["failed"]) == ("extend-baseline", False)
    assert "in turn" not in found["reason"]


@pytest.mark.parametrize(
    ("name", "shown"), [("HEAD", "none"), ("abcdef012345", "abcdef012345")], ids=["branch", "gone"]
)
def test_a_commit_that_is_not_here_is_said(project: pytest.Pytester, name: str, shown: str) -> None:
    """With HEAD the slow code would be held against itself; see ``compare/test_recorded.py``."""
    store(project, *APART, commit=name)
    change(project)
    _, found = run(project)
    assert (found["verdict"], found["failed"]) == ("extend-baseline", False)
    assert f"the commit that was recorded ({shown}) is not here" in found["reason"]


def test_what_was_recorded_before_it_was_committed_is_found_in_the_commit_that_brought_it(
    project: pytest.Pytester,
) -> None:
    """The first commit is faster: held against it, accepted code would be red."""
    first = git(project, "rev-parse", "HEAD")[:12]
    change(project)
    store(project, *APART, commit=first, recorded={CHANGED: "files differed from the commit"})
    accepted = commit(project)
    change(project, SLOWER + "# a comment\n")
    commit(project)
    _, found = run(project)
    assert found["verdict"] == "pass"
    assert f"in turn with {accepted[:10]}" in found["reason"]


def test_outside_of_a_repository_it_is_said(project: pytest.Pytester) -> None:
    store(project, *APART, commit=git(project, "rev-parse", "HEAD"))
    change(project)
    (project.path / ".git").rename(project.path / "no-git")
    _, found = run(project)
    assert found["verdict"] == "extend-baseline"
    assert "run it in the git work tree" in found["reason"]


def test_each_side_runs_what_lies_beside_its_own_tests(project: pytest.Pytester) -> None:
    """The measured code may be a helper of the tests."""
    (project.path / "tests").mkdir()
    for name in ("test_project.py", "work.py", "clock.py"):
        (project.path / name).rename(project.path / "tests" / name)
    recorded = commit(project)
    store(project, *APART, commit=recorded)
    (project.path / "tests" / "work.py").write_text(SLOWER)
    _, found = run(project)
    assert (found["verdict"], found["in_turn_with"]) == ("regression", recorded[:10])


def test_a_busy_machine_is_the_reason_why_nothing_was_measured_in_turn() -> None:
    process = Process(0.1, 1e-3, 1e-3, "a", rounds=0)
    left_open = Outcome("mine", "test", Status.EXTEND, "why", [process])

    def compare(base: str, margin: float) -> Outcome:
        raise AssertionError

    settle(left_open, Revision("abc", "abcdef"), compare, None)
    assert left_open.status is Status.EXTEND
    assert left_open.reason.startswith("why; not measured in turn")
    assert left_open.reason.endswith("others used the machine")


def test_other_dependencies_are_not_installed_by_a_gate(project: pytest.Pytester) -> None:
    metadata = """
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "work"
        version = "1"
        dependencies = [{}]
        [tool.setuptools]
        py-modules = ["work"]
    """
    file = project.path / "pyproject.toml"
    file.write_text(metadata.format('"no-such-distribution-at-all"'))
    recorded = commit(project)
    store(project, *APART, commit=recorded)
    file.write_text(metadata.format(""))
    change(project)
    _, found = run(project)
    assert found["verdict"] == "extend-baseline"
    assert "not measured in turn" in found["reason"]


def test_a_recording_says_whether_files_differed_from_its_commit(project: pytest.Pytester) -> None:
    def recorded() -> dict[str, str]:
        project.runpytest_subprocess("--update-baselines").assert_outcomes(passed=1)
        text = Path(project.path / "baselines.json").read_text()
        (entry,) = [
            one
            for one in json.loads(text)["entries"]
            if isinstance(one, dict) and "recorded" in one
        ]
        found: dict[str, str] = entry["recorded"]
        return found

    assert CHANGED not in recorded()
    commit(project)
    assert CHANGED not in recorded()  # the baselines alone differ
    change(project)
    assert CHANGED in recorded()


@pytest.mark.parametrize(
    ("own", "of_baseline", "judged"),
    [(None, 0.019, 0.019), (None, 0.08, 0.05), (None, None, 0.05), (0.1, 0.019, 0.1)],
)
def test_a_margin_that_is_wide_because_hours_differ_is_not_taken_along(
    own: float | None, of_baseline: float | None, judged: float
) -> None:
    process = Process(0.1, 1e-3, 1e-3, "a", rounds=2)
    left_open = Outcome("mine", "test", Status.EXTEND, "why", [process])
    if of_baseline is not None:
        change = Estimate(1.1, 1.0, 1.2)
        left_open.judgement = Judgement(Verdict.EXTEND, change, of_baseline, 12, "why")
    asked: list[tuple[str, float]] = []

    def compare(base: str, margin: float) -> Outcome:
        asked.append((base, margin))
        return Outcome("mine", "test", Status.PASS, "in turn")

    settle(left_open, Revision("abc", "abcdef"), compare, own)
    assert asked == [("abcdef", judged)]
    assert left_open.status is Status.PASS
