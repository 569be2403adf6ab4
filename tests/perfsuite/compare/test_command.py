"""``perfsuite compare`` as a user runs it, in a repository of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.main import get_command

from perfsuite.__main__ import main
from perfsuite.compare import command

Git = Callable[..., str]
MakeRepository = Callable[..., Path]
ROOT = Path(__file__).parents[3]

FILES = {
    ".gitignore": "__pycache__/\n",
    "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["src"]\n',
    "src/package.py": "def work():\n    return sum(range(4000))\n",
    "tests/test_it.py": """
        import package

        def test_work(latency_gate):
            latency_gate(package.work, name="work")

        def test_other():
            raise SystemExit("has no gate, so it is not run")
    """,
}


@pytest.fixture
def committed(repository: MakeRepository, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in which the test runs."""
    root = repository(FILES)
    monkeypatch.chdir(root)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return root


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


class Run:
    """Stands for the run of pytest: writes what that would have written."""

    def __init__(self) -> None:
        self.outcomes: list[Mapping[str, Any]] = []
        self.failures: dict[str, str] | None = {}
        self.collected = 1
        self.output = b""
        self.command: Sequence[str] = ()

    def __call__(self, started: Sequence[str], output: Any) -> None:
        self.command = started
        output.write(self.output)
        if self.failures is None:
            return
        content = {"failures": self.failures, "collected": self.collected}
        Path(self.after("--perf-failures")).write_text(json.dumps(content))
        report = {
            "titles": ["head 0123456789", "BASE HEAD (0123456789)"],
            "machine": {"cpu": "x"},
            "subjects": self.outcomes,
        }
        Path(self.after("--perf-report")).write_text(json.dumps(report))

    def after(self, option: str) -> str:
        return self.command[self.command.index(option) + 1]


@pytest.fixture
def canned(committed: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    found = Run()
    monkeypatch.setattr(command, "_run", found)
    return found


def outcome(verdict: str, test: str = "tests/test_it.py::test_work") -> dict[str, Any]:
    compared = verdict != "one-sided"
    return {
        "name": "work",
        "test": test,
        "verdict": verdict,
        "failed": verdict == "regression",
        "reason": "the reason",
        "change": 1.1 if compared else None,
        "change_interval": [1.0, 1.2] if compared else None,
        "margin": 0.05,
        "latency_s": 1e-3 if compared else None,
        "base_s": 1e-3 if compared else None,
        "phases": {},
        "processes": 12,
        "looks": 2,
        "disturbed_rounds": 0,
    }


@pytest.mark.parametrize(
    ("verdicts", "failures", "status"),
    [
        (["pass", "one-sided"], {}, 0),
        (["pass", "improved"], {}, 0),
        (["regression"], {"tests/test_it.py::test_work": "slower"}, 1),
        (["pass"], {"tests/test_it.py::test_broken": "KeyError"}, 2),
        (["inconclusive"], {}, 3),
    ],
)
def test_the_exit_status_says_how_it_ended(
    canned: Run,
    capsys: pytest.CaptureFixture[str],
    verdicts: list[str],
    failures: dict[str, str],
    status: int,
) -> None:
    canned.outcomes, canned.failures = [outcome(verdict) for verdict in verdicts], failures
    assert main(["compare", "HEAD", "--json", "c.json", "--markdown", "c.md"]) == status
    output = capsys.readouterr().out
    assert output.startswith("head 0123456789 against BASE HEAD (0123456789)\n")
    assert verdicts[0] in output
    assert ("KeyError" in output) is (status == 2)
    result = json.loads(Path("c.json").read_text())
    assert [one["name"] for one in result["benchmarks"]] == ["work"] * len(verdicts)
    assert result["command"] == "perfsuite compare HEAD --json c.json --markdown c.md"
    assert f"| work | {verdicts[0]} |" in Path("c.md").read_text()


@pytest.mark.parametrize(
    ("outcomes", "failures", "output", "problem"),
    [
        ([], {}, b"", "no test that was collected uses latency_gate"),
        (
            [],
            None,
            b"x\nERROR: file or directory not found: y\n",
            "pytest: file or directory not found",
        ),
        ([], None, b"", "pytest did not run"),
        ([outcome("one-sided")], {}, b"", "nothing could be compared: the reason"),
        ([], {"a": "BASE: no", "b": "BASE: no"}, b"", "nothing could be compared: BASE: no"),
        ([], {"a": "one", "b": "two"}, b"", "nothing could be compared: a: one; b: two"),
    ],
)
def test_where_nothing_was_compared_one_line_says_why(
    canned: Run,
    capsys: pytest.CaptureFixture[str],
    outcomes: list[Mapping[str, Any]],
    failures: dict[str, str] | None,
    output: bytes,
    problem: str,
) -> None:
    canned.outcomes, canned.failures, canned.output = outcomes, failures, output
    canned.collected = len(outcomes)
    assert main(["compare", "HEAD", "--json", "c.json"]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not Path("c.json").exists()


def test_pytest_gets_what_is_its_own(canned: Run) -> None:
    canned.outcomes = [outcome("pass")]
    arguments = "HEAD --margin 10 tests/test_it.py -x --head HEAD -k"
    assert main(["compare", *arguments.split(), "a or b", "--tests-from=base", "--", "--json"]) == 0
    assert [canned.after(f"--perf-{name}") for name in ("against", "head", "tests-from", "margin")] == [
        "HEAD", "HEAD", "base", "10.0",
    ]  # fmt: skip
    assert canned.command[-5:] == ["tests/test_it.py", "-x", "-k", "a or b", "--json"]
    assert not Path("c.json").exists()


@pytest.mark.parametrize(
    ("given", "theirs", "own"),
    [
        ("main", "", {}),
        ("main --json f tests/a.py", "tests/a.py", {"json_file": Path("f")}),
        ("main tests/a.py --json f", "tests/a.py", {"json_file": Path("f")}),
        ("--json f main -k x", "-k x", {"json_file": Path("f")}),
        ("main -- --head x", "--head x", {"head": None}),
        ("main -o perf_looks=3 --margin 2", "-o perf_looks=3", {"margin": 2.0}),
        ("main -khash -xvs --margin=2", "-khash -xvs", {"margin": 2.0}),
        ("main --marg 2 --hea x", "--marg 2 --hea x", {"margin": None, "head": None}),
    ],
)
def test_options_are_told_apart(given: str, theirs: str, own: dict[str, object]) -> None:
    with get_command(command.app).make_context("compare", given.split()) as context:
        found = context.params
    assert list(found["theirs"] or ()) == theirs.split()
    assert found["base"] == "main"
    assert {name: found[name] for name in own} == own


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_help_wherever_it_stands(
    committed: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", "HEAD", option])
    assert ended.value.code == 0
    assert "--tests-from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("no-such-revision", "BASE 'no-such-revision': no such revision"),
        ("HEAD --head nothing", "--head 'nothing': no such revision"),
        ("HEAD --margin 0", "--margin 0.0: must be a positive"),
        ("HEAD --margin nan", "--margin nan: must be a positive"),
        ("HEAD --margin x", "--margin"),
        ("HEAD --tests-from both", "--tests-from"),
        ("HEAD --json /no/such/folder/f", "--json /no/such/folder/f"),
        ("HEAD --markdown /no/such/folder/f", "--markdown /no/such/folder/f"),
        ("", "BASE"),
    ],
)
def test_bad_input_gets_one_line(
    canned: Run, capsys: pytest.CaptureFixture[str], options: str, problem: str
) -> None:
    assert main(["compare", *options.split()]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not canned.command


def test_outside_of_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "HEAD"]) == 2
    assert "run it in the git work tree" in capsys.readouterr().err


# From here on, pytest itself runs, and processes of both sides.

QUICK = ["-o", "perf_looks=1", "-o", "perf_processes=3", "-o", "perf_servers=1"]


def nothing_is_left(repository: Path, temporary: Path, git: Git) -> bool:
    left = [path for path in temporary.iterdir() if not path.name.startswith("pytest-of-")]
    return (
        git(repository, "worktree", "list").count("\n") == 0
        and not left
        and not psutil.Process().children(recursive=True)
    )


@pytest.mark.slow
def test_a_slower_head_is_red(
    committed: Path, temporary: Path, git: Git, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(committed / "src" / "package.py", "4000", "40000")
    assert main(["compare", "HEAD", *QUICK, "--json", "c.json"]) == 1
    output = capsys.readouterr().out
    assert "with changes against BASE HEAD (" in output
    assert "regression" in output
    (result,) = json.loads(Path("c.json").read_text())["benchmarks"]
    assert (result["name"], result["verdict"]) == ("work", "regression")
    assert result["change"] > 2
    assert result["head_s"] > result["base_s"] > 0
    assert nothing_is_left(committed, temporary, git)


@pytest.mark.slow
def test_a_test_that_only_head_has_is_said_and_so_is_one_that_base_cannot_run(
    committed: Path, git: Git, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(committed / "src" / "package.py", "4000", "3999")
    with (committed / "src" / "package.py").open("a") as file:
        file.write("\ndef more():\n    return sum(range(4000))\n")
    with (committed / "tests" / "test_it.py").open("a") as file:
        file.write("\ndef test_more(latency_gate):\n    latency_gate(package.more, name='more')\n")
    assert main(["compare", "HEAD", *QUICK, "--margin", "900"]) == 0
    output = capsys.readouterr().out
    assert "more: not compared: BASE" in output
    assert "AttributeError" in output
    assert main(["compare", "HEAD", *QUICK, "--margin", "900", "--tests-from", "base"]) == 0
    assert "more: not compared: " in capsys.readouterr().out


@pytest.mark.slow
def test_a_test_that_head_cannot_run_is_bad_input(
    committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(committed / "src" / "package.py", "return sum", "return {}['key']; sum")
    assert main(["compare", "HEAD", *QUICK]) == 2
    assert "KeyError" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(
    committed: Path, temporary: Path, git: Git, number: signal.Signals, status: int
) -> None:
    started = [
        sys.executable,
        "-P",
        "-m",
        "perfsuite",
        "compare",
        "HEAD",
        "-o",
        "perf_processes=1000",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(started, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            children: list[psutil.Process] = []
            while len(children) < 4 and time.monotonic() < deadline:  # pytest, and servers
                time.sleep(0.02)
                children = psutil.Process(process.pid).children(recursive=True)
            assert git(committed, "worktree", "list").count("\n") == 1
            process.send_signal(number)
            process.send_signal(number)  # an impatient user's second one changes nothing
            process.wait(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status
    assert not psutil.wait_procs(children, timeout=2)[1]
    assert nothing_is_left(committed, temporary, git)


@pytest.mark.slow
def test_the_first_slow_commit_is_found(
    repository: MakeRepository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = {"src/package.py": FILES["src/package.py"].replace("4000", "40000")}
    broken = {"src/package.py": "raise ValueError\n"}
    root = repository(FILES, {"a": "a"}, broken, slow, {"a": "b"})
    monkeypatch.chdir(root)
    assert main(["bisect", "HEAD~4", "HEAD", "--", "tests/test_it.py", *QUICK]) == 3
    output = capsys.readouterr().out
    assert "one of 2:" in output  # the broken one, and the slow one after it
    assert " commit 2 (" in output
    assert " commit 3 (" in output
