from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from perfsuite import action

TABLE = "### Latency gate\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def event(tmp_path: Path) -> Path:
    """The event of a pull request into a commit that nobody has."""
    path = tmp_path / "event.json"
    path.write_text(json.dumps({"pull_request": {"number": 7, "base": {"sha": "f" * 40}}}))
    return path


class Pytest:
    """In the place of the command that measures: leaves what it would leave."""

    def __init__(self, status: int, *verdicts: str) -> None:
        self.status, self.verdicts, self.command = status, verdicts, list[str]()

    def __call__(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        self.command = list(command)
        if self.verdicts:
            report = {"subjects": [{"verdict": verdict} for verdict in self.verdicts]}
            Path("latency-gate.json").write_text(json.dumps(report))
            Path(environment["GITHUB_STEP_SUMMARY"]).write_text(TABLE)
        return self.status


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("tests/a.py tests/b.py", ["tests/a.py", "tests/b.py"]),
        ("tests/a.py\ntests/b.py\n", ["tests/a.py", "tests/b.py"]),
        ("-k 'a or b'\n-x", ["-k", "a or b", "-x"]),
        ('-k "a or b"', ["-k", "a or b"]),
        ("'tests/a.py::test[#1 $(x)]'", ["tests/a.py::test[#1 $(x)]"]),
    ],
)
def test_inputs_are_words_as_in_a_shell(text: str, words: list[str]) -> None:
    assert action.split({"INPUT_TESTS": text}, "tests") == words


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"INPUT_TESTS": "-k 'a"}, "tests: No closing quotation"),
        ({"INPUT_MODE": "fast"}, "mode: fast: must be one of auto, compare, gate"),
        ({"INPUT_STRICT": "maybe"}, "strict: maybe: must be true or false"),
        ({"INPUT_REPORT": "a\nb=c"}, "report: must be a file's name in one line"),
        ({"INPUT_MODE": "compare"}, "base: is needed where the event is no pull request"),
    ],
)
def test_an_input_that_cannot_be_used_is_named(
    inputs: dict[str, str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert action.main(["measure"], inputs) == 2
    assert capsys.readouterr().out == f"::error title=latency gate::{problem}\n"


@pytest.mark.parametrize(
    ("asked", "runner", "on_pull_request", "expected"),
    [
        ("", "github-hosted", True, "compare"),
        ("auto", "github-hosted", True, "compare"),
        ("auto", "github-hosted", False, "gate"),
        ("auto", "self-hosted", True, "gate"),
        ("gate", "github-hosted", True, "gate"),
        ("compare", "self-hosted", False, "compare"),
    ],
)
def test_a_hosted_runner_compares_pull_requests(
    event: Path, asked: str, runner: str, on_pull_request: bool, expected: str
) -> None:
    path = str(event) if on_pull_request else ""
    environment = {
        "INPUT_MODE": asked,
        "RUNNER_ENVIRONMENT": runner,
        "GITHUB_EVENT_PATH": path,
    }
    assert action.chosen_mode(environment) == expected


def test_the_base_is_the_merge_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "fork point")
    fork_point = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "branch", "change")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "main goes on")
    target = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "switch", "--quiet", "change")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "change")
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"merge_group": {"base_sha": target}}))
    assert action.base({"GITHUB_EVENT_PATH": str(event)}) == fork_point
    assert action.base({"GITHUB_EVENT_PATH": str(event), "INPUT_BASE": "v1"}) == "v1"


def test_commits_that_were_not_checked_out_are_asked_for(event: Path) -> None:
    with pytest.raises(action.InputError, match="fetch-depth: 0"):
        action.base({"GITHUB_EVENT_PATH": str(event)})


@pytest.mark.parametrize(
    ("mode", "status", "verdicts", "outcome", "expected"),
    [
        ("gate", 0, ["pass", "improved"], "pass", 0),
        ("gate", 0, ["pass", "inconclusive"], "undecided", 0),
        ("gate", 1, ["pass", "regression"], "regression", 1),
        ("gate", 1, ["no-baseline"], "failed", 1),
        ("gate", 10, ["not-measured"], "not-judged", 10),
        ("gate", 5, [], "error", 5),
        ("compare", 0, ["pass"], "pass", 0),
        ("compare", 1, ["regression"], "regression", 1),
        ("compare", 2, [], "error", 2),
        ("compare", 3, ["inconclusive"], "undecided", 0),
    ],
)
def test_the_outcome_is_told_and_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    status: int,
    verdicts: list[str],
    outcome: str,
    expected: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latency-gate.md").write_text("of an earlier run")
    Path("summary").write_text("before\n")
    environment = {
        "INPUT_MODE": mode,
        "INPUT_BASE": "main",
        "GITHUB_OUTPUT": "outputs",
        "GITHUB_STEP_SUMMARY": "summary",
    }
    assert action.measure(environment, Pytest(status, *verdicts)) == expected
    told = dict(line.split("=", 1) for line in Path("outputs").read_text().splitlines())
    assert told["outcome"] == outcome
    assert told["mode"] == mode
    assert told["markdown"] == ("latency-gate.md" if verdicts else "")
    assert Path("summary").read_text() == "before\n" + (TABLE if verdicts else "")
    warned = "::warning" in capsys.readouterr().out
    assert warned == (mode == "compare" and outcome == "undecided")


def test_what_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = {"INPUT_TESTS": "a.py\nb.py", "INPUT_ARGUMENTS": "-k 'a or b'"}
    gate, compare, lenient = Pytest(0), Pytest(0), Pytest(0)
    action.measure({**inputs, "INPUT_MODE": "gate"}, gate)
    assert gate.command[1:5] == ["-m", "pytest", "a.py", "b.py"]
    assert gate.command[-2:] == ["-k", "a or b"]
    assert "--perf-strict" in gate.command
    action.measure({**inputs, "INPUT_MODE": "gate", "INPUT_STRICT": "false"}, lenient)
    assert "--perf-strict" not in lenient.command
    action.measure({**inputs, "INPUT_MODE": "compare", "INPUT_BASE": "v1"}, compare)
    assert compare.command[1:5] == ["-m", "perfsuite", "compare", "v1"]
    assert compare.command[-5:] == ["--", "a.py", "b.py", "-k", "a or b"]


def test_an_environment_without_pip_is_served_by_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    assert action.installer()[:3] == [sys.executable, "-m", "pip"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert action.installer()[:3] == ["/bin/uv", "pip", "install"]
    assert action.installer()[-2:] == ["--python", sys.executable]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(action.InputError, match="has no pip, and there is no uv"):
        action.installer()


class GitHub:
    """Answers queries about a pull request with these comments: pairs of author and text."""

    def __init__(self, *comments: tuple[str | None, str]) -> None:
        self._comments, self.changes = comments, list[Mapping[str, Any]]()

    def __call__(self, query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        if "mutation" in query:
            self.changes.append(variables)
            return {}
        nodes = [
            {"id": f"comment {place}", "body": body, "author": author and {"login": author}}
            for place, (author, body) in enumerate(self._comments)
        ]
        pull_request = {"id": f"pull request {variables['number']}", "comments": {"nodes": nodes}}
        return {
            "viewer": {"login": "github-actions[bot]"},
            "repository": {"pullRequest": pull_request},
        }


@pytest.fixture
def commenting(event: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a step that is to comment."""
    (tmp_path / "table.md").write_text(TABLE)
    return {
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_REPOSITORY": "owner/name",
        "GITHUB_JOB": "latency",
        "MARKDOWN": str(tmp_path / "table.md"),
        "TOKEN": "token",
    }


MARKER = "<!-- latency gate: latency -->"


def test_a_comment_is_added_once_and_then_edited(commenting: dict[str, str]) -> None:
    fresh = GitHub((None, MARKER), ("somebody", MARKER), ("github-actions", "another's"))
    assert action.comment(commenting, fresh) == 0
    assert fresh.changes == [{"id": "pull request 7", "body": f"{MARKER}\n{TABLE}"}]
    again = GitHub(("github-actions", f"{MARKER}\nold"), ("somebody", f"{MARKER}\nfake"))
    action.comment(commenting, again)
    assert again.changes == [{"id": "comment 0", "body": f"{MARKER}\n{TABLE}"}]


def test_a_long_table_is_cut_at_a_line(commenting: dict[str, str]) -> None:
    Path(commenting["MARKDOWN"]).write_text("| a line |\n" * 10_000)
    github = GitHub()
    action.comment(commenting, github)
    body = github.changes[0]["body"]
    assert len(body) < 65_536
    assert body.endswith("| a line |\n\n(cut)\n")


def test_a_token_that_may_not_comment_is_a_warning(
    commenting: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        raise ValueError("Resource not accessible by integration")

    assert action.comment(commenting, refuse) == 0
    assert "::warning title=latency gate::the pull request got no comment: Resource" in (
        capsys.readouterr().out
    )


def test_off_a_pull_request_nothing_is_commented(commenting: dict[str, str]) -> None:
    github = GitHub()
    Path(commenting["GITHUB_EVENT_PATH"]).write_text("{}")
    assert action.comment(commenting, github) == 0
    assert github.changes == []


def test_it_runs_before_anything_is_installed() -> None:
    """Beside modules that have names of the standard library's: isolated, they are out of its way."""
    command = [sys.executable, "-I", "-S", action.__file__, "measure"]
    done = subprocess.run(
        command, env={"INPUT_MODE": "x"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "mode: x" in done.stdout
