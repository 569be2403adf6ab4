"""``perfsuite compare`` as a user runs it, in a repository of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from perfsuite.__main__ import main
from perfsuite.forked.servers import PAIRS
from perfsuite.gate.disturbance import Watch

Git = Callable[..., str]
ROOT = Path(__file__).parents[3]
QUICK = ["--tokens", "8", "--processes", "3", "--looks", "1"]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, so that a test can see what is left of them."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else runs on this machine is no part of these tests."""
    monkeypatch.setattr(Watch, "foreign_share", lambda self: 0.0)


def edit(repository: Path, old: str, new: str) -> None:
    path = repository / "runtime" / "__init__.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def nothing_is_left(repository: Path, temporary: Path, git: Git) -> bool:
    return (
        git(repository, "worktree", "list").count("\n") == 0
        and not list(temporary.iterdir())
        and not psutil.Process().children(recursive=True)
    )


@pytest.mark.slow
def test_the_real_runtime_is_red_where_its_worker_computes_twice(
    real: Path,
    temporary: Path,
    git: Git,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(real)
    files = ["--json", "compare.json", "--markdown", "compare.md"]
    assert main(["compare", "HEAD~1", *QUICK, "--stages", "fused", *files]) == 1
    output = capsys.readouterr().out
    assert "regression" in output
    assert "device +" in output
    result = json.loads((real / "compare.json").read_text())
    (stage,) = result["stages"]
    assert (stage["name"], stage["verdict"], stage["moved_most"]) == (
        "fused",
        "regression",
        "device",
    )
    assert stage["change"] > 1.05
    assert stage["head_s"] > stage["base_s"] > 0
    assert result["base"].startswith("BASE HEAD~1 (")
    assert "| 🔴 | fused | regression |" in (real / "compare.md").read_text()
    assert nothing_is_left(real, temporary, git)


def test_equal_stages_pass_and_what_only_one_side_has_is_said(
    committed: Path,
    temporary: Path,
    git: Git,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(committed, '"bf16": 0.001', '"int8": 0.001')
    monkeypatch.chdir(committed)
    assert main(["compare", "main", *QUICK, "--margin", "0.5"]) == 0
    output = capsys.readouterr().out
    assert "with changes against BASE main (" in output
    assert "fused  pass" in output
    assert "int8: not compared: only head" in output
    assert "bf16: not compared: only BASE" in output
    assert nothing_is_left(committed, temporary, git)


def test_too_few_processes_are_inconclusive(
    committed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(committed)
    assert main(["compare", "HEAD", *QUICK, "--processes", "2", "--stages", "fused"]) == 3
    assert "fused: 2 processes measured, 3 are the least" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "status"), [("head", 2), ("BASE", 0)]
)  # a stage that BASE could not run did not get worse
def test_a_stage_that_one_side_cannot_run_is_told(
    committed: Path,
    git: Git,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
    status: int,
) -> None:
    text = (committed / "runtime" / "__init__.py").read_text()
    edit(
        committed,
        "time.sleep(DELAY[self.stage])",
        'time.sleep(DELAY[self.stage]); self.stage == "bf16" and 1 / 0',
    )
    if broken == "BASE":
        git(committed, "commit", "--quiet", "-a", "-m", "broken")
        (committed / "runtime" / "__init__.py").write_text(text)
    monkeypatch.chdir(committed)
    assert main(["compare", "HEAD", *QUICK, "--margin", "0.5"]) == status
    output = capsys.readouterr().out
    assert "fused  pass" in output
    assert f"bf16: not compared: {broken}" in output
    assert "ZeroDivisionError" in output


def test_another_dependency_gets_an_environment_of_its_own(
    committed: Path, git: Git, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = committed / "pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace('"torch"', '"torch", "gone @ file:///no/such/gone.whl"'))
    git(committed, "commit", "--quiet", "-a", "-m", "needs what is gone")
    project.write_text(text)
    monkeypatch.chdir(committed)
    assert main(["compare", "HEAD", *QUICK]) == 2
    assert "BASE's dependencies cannot be installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("no-such-revision", "no such revision"),
        ("HEAD --tokens 0", "--tokens 0: must be at least 1"),
        ("HEAD --threads 0", "--threads 0: must be at least 1"),
        ("HEAD --processes 0", "--processes 0: must be at least 1"),
        ("HEAD --looks 0", "--looks 0: must be at least 1"),
        ("HEAD --margin 0", "--margin 0.0: must be positive"),
        ("HEAD --margin nan", "--margin nan: must be positive"),
        ("HEAD --json /no/such/folder/f", "/no/such/folder/f"),
        ("HEAD --markdown /no/such/folder/f", "--markdown /no/such/folder/f"),
        ("HEAD --model no-such-model", "no-such-model"),
        ("HEAD --stages turbo", "no stage 'turbo'"),
        ("", "BASE"),
    ],
)
def test_bad_input_gets_one_line(
    committed: Path,
    temporary: Path,
    git: Git,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    problem: str,
) -> None:
    monkeypatch.chdir(committed)
    assert main(["compare", *options.split()]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert nothing_is_left(committed, temporary, git)


def test_outside_of_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "HEAD"]) == 2
    assert "run compare in the git work tree" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(
    committed: Path, temporary: Path, git: Git, number: signal.Signals, status: int
) -> None:
    command = [sys.executable, "-P", "-m", "perfsuite", "compare", "HEAD", "--processes", "1000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=committed, env=environment) as process:
        try:
            deadline = time.monotonic() + 60
            started = PAIRS * 2 + 4  # drivers, and what one of each side has forked
            children: list[psutil.Process] = []
            while len(children) < started and time.monotonic() < deadline:
                time.sleep(0.02)
                children = psutil.Process(process.pid).children(recursive=True)
            assert git(committed, "worktree", "list").count("\n") == 1
            process.send_signal(number)
            process.send_signal(number)  # an impatient user's second one changes nothing
            process.wait(timeout=20)
        finally:
            process.kill()
    assert process.returncode == status
    assert len(children) == started
    assert not psutil.wait_procs(children, timeout=2)[1]
    assert nothing_is_left(committed, temporary, git)
