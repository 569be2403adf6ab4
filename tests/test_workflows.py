"""The workflows' shell steps as they stand: extracted, and executed where they need no GPU and no GitHub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from perfsuite.gate.baselines import Baselines

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EXAMPLE = ROOT / "examples" / "gate-your-own"
ACTION = ROOT / "action.yml"


def load(path: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def step(path: Path, job: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in load(path)["jobs"][job]["steps"] if one.get("name") == name]
    return dict(found)


def execute(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step's script as a runner does."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fork of two branches: `main` went on after the branch `change` was made, which is checked out."""
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text(".venv\n")
    (root / "perfsuite").mkdir()
    shutil.copy(ROOT / "perfsuite" / "baselines.json", root / "perfsuite")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "fork point")
    git(root, "switch", "--quiet", "-c", "change")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "change")
    git(root, "switch", "--quiet", "main")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "main goes on")
    git(root, "switch", "--quiet", "change")
    (root / ".venv" / "bin").mkdir(parents=True)
    return root


def stand_in(checkout: Path, name: str, script: str) -> None:
    """Put a stand-in for an installed program in place; it notes its arguments."""
    path = checkout / ".venv" / "bin" / name
    path.write_text(f'#!/bin/sh\necho "$@" > arguments\n{script}\n')
    path.chmod(0o755)


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1), (2, 2), (3, 0)])
def test_a_pull_request_is_compared_with_its_merge_base(
    checkout: Path, status: int, expected: int
) -> None:
    stand_in(checkout, "perfsuite", f"echo '| table |' > compare.md; exit {status}")
    script = step(ROOT / ".github/workflows/ci.yml", "compare", "Compare")["run"]
    summary = checkout / "summary.md"
    summary.write_text("before\n")
    done = execute(
        script,
        checkout,
        TARGET=git(checkout, "rev-parse", "main"),
        GITHUB_STEP_SUMMARY=str(summary),
    )
    assert done.returncode == expected, done.stderr
    assert ("::warning" in done.stdout) == (status == 3)
    assert summary.read_text() == "before\n| table |\n"
    fork_point = git(checkout, "rev-parse", "change~1")
    arguments = (checkout / "arguments").read_text().split()
    assert arguments[:2] == ["compare", fork_point]
    assert arguments[-1] == "perfsuite/test_latency.py"


def test_a_comparison_that_wrote_nothing_still_gives_its_status(checkout: Path) -> None:
    stand_in(checkout, "perfsuite", "exit 2")
    script = step(ROOT / ".github/workflows/ci.yml", "compare", "Compare")["run"]
    done = execute(script, checkout, TARGET="main", GITHUB_STEP_SUMMARY=str(checkout / "summary"))
    assert done.returncode == 2
    assert not (checkout / "summary").exists()


def test_the_ladder_goes_to_the_step_summary(checkout: Path) -> None:
    stand_in(checkout, "perfsuite", "echo 'stage latency'")
    script = step(ROOT / ".github/workflows/gpu-latency.yml", "gate", "Ladder")["run"]
    done = execute(script, checkout, GITHUB_STEP_SUMMARY=str(checkout / "summary"))
    assert done.returncode == 0, done.stderr
    assert (checkout / "summary").read_text() == "### Ladder\n```\nstage latency\n```\n"


def test_a_recorded_artifact_is_adopted_or_refused(checkout: Path) -> None:
    script = step(ROOT / ".github/workflows/baselines.yml", "propose", "Adopt")["run"]
    stand_in(checkout, "perfsuite", f'exec {sys.executable} -m perfsuite "$@"')
    kept = checkout / "perfsuite" / "baselines.json"
    offered = checkout / "untrusted" / "recorded.json"
    offered.parent.mkdir()
    (entry, *_) = Baselines.read(kept).entries
    Baselines(offered).record(replace(entry, machine={"cpu": "another"}))
    environment = {"RUNNER_TEMP": str(checkout), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    done = execute(script, checkout, **environment)
    assert done.returncode == 0, done.stderr
    assert f"another: added: {entry.name}" in done.stdout
    assert "perfsuite/baselines.json" in done.stdout
    adopted = kept.read_text()
    offered.write_text("{}")
    assert execute(script, checkout, **environment).returncode == 2
    assert kept.read_text() == adopted


def test_an_unchanged_file_opens_no_pull_request(checkout: Path) -> None:
    script = step(ROOT / ".github/workflows/baselines.yml", "propose", "Open a pull request")["run"]
    done = execute(script, checkout, GITHUB_STEP_SUMMARY=str(checkout / "summary"))
    assert done.returncode == 0, done.stderr
    assert (checkout / "summary").read_text() == "Nothing changed.\n"
    assert git(checkout, "branch", "--show-current") == "change"


def test_every_workflow_of_the_example_is_well_formed() -> None:
    tool_path = Path(sys.executable).with_name("actionlint")
    files = [str(path) for path in (EXAMPLE / ".github" / "workflows").glob("*.yml")]
    assert files
    subprocess.run([tool_path, *files], check=True, cwd=EXAMPLE)


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.name)
def test_every_shell_step_is_sound_bash(path: Path) -> None:
    document = load(path)
    jobs = document["jobs"].values() if "jobs" in document else [document["runs"]]
    scripts = [one["run"] for job in jobs for one in job["steps"] if "run" in one]
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n", "-c", script], check=True)
        assert "${{" not in script  # what others can write must not become shell


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_job_holds_more_than_it_needs(path: Path) -> None:
    document = load(path)
    assert document["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in document[True]  # yaml's own reading of the key `on`
    for name, job in document["jobs"].items():
        assert "secrets." not in yaml.safe_dump(job)
        if "permissions" in job:
            assert (path.name, name) == ("baselines.yml", "propose")
            assert job["runs-on"] == "ubuntu-latest"
        if job["runs-on"] == ["self-hosted", "gpu"]:
            assert job["concurrency"] == {"group": "gpu", "cancel-in-progress": False}
