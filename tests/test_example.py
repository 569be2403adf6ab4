"""``examples/gate-your-own`` as an outsider uses it: in an environment of its own, by the steps of ``action.yml``.

Verdicts are asserted where a busy machine cannot change them: a call that sleeps, or takes many times as long.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.test_workflows import ACTION, load

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "gate-your-own"
QUICK = "-o perf_processes=3 -o perf_looks=1"
# Nothing is downloaded: what is built here is built with what the tests' own environment holds.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0 is yes

pytestmark = pytest.mark.slow


class Outsider:
    """A checkout of the example, and an environment that the source tree is out of reach of."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.environment = folder / "checkout", folder / "environment"
        self.python = self.environment / "bin" / "python"
        self._folder = folder
        action = load(ACTION)
        self._inputs = {name: one.get("default", "") for name, one in action["inputs"].items()}
        self._steps = {one["name"]: one for one in action["runs"]["steps"]}

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(self.checkout), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def run(
        self, step: str, event: dict[str, Any] | None = None, **inputs: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a step of the action as a hosted runner does."""
        values = {**self._inputs, "python": str(self.python), **inputs}
        given = {
            name: values[text.removeprefix("${{ inputs.").removesuffix(" }}")]
            for name, text in self._steps[step]["env"].items()
        }
        event_file = self._folder / "event.json"
        event_file.write_text(json.dumps(event or {}))
        for name in ("outputs", "summary"):
            (self._folder / name).write_text("")
        runner = {
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_EVENT_PATH": str(event_file),
            "GITHUB_OUTPUT": str(self._folder / "outputs"),
            "GITHUB_STEP_SUMMARY": str(self._folder / "summary"),
            "RUNNER_ENVIRONMENT": "github-hosted",
        }
        hidden = {"PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"}
        inherited = {name: value for name, value in os.environ.items() if name not in hidden}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self._steps[step]["run"]],
            cwd=self.checkout,
            env={**inherited, **OFFLINE, **runner, **given},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    @property
    def outputs(self) -> dict[str, str]:
        """What the last step told those that follow."""
        lines = (self._folder / "outputs").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def summary(self) -> str:
        """What the last step showed."""
        return (self._folder / "summary").read_text()


@pytest.fixture(scope="module")
def outsider(tmp_path_factory: pytest.TempPathFactory) -> Outsider:
    """The gate is installed by the action's own step, the example by pip."""
    made = Outsider(tmp_path_factory.mktemp("outsider"))
    venv.create(made.environment)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = made.environment / "lib" / version / "site-packages"
    # pip, and what the gate depends on; no code in .pth files is run there, so that nothing leads back here.
    (packages / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copytree(EXAMPLE, made.checkout)
    lines = (made.checkout / "baselines.json").read_text().splitlines(keepends=True)
    # An outsider's machine is another one, wherever this test runs.
    elsewhere = [line.replace('"cpu": "', '"cpu": "another ') for line in lines]
    (made.checkout / "baselines.json").write_text("".join(elsewhere))
    made.git("init", "--quiet", "--initial-branch=main")
    made.git("add", ".")
    made.git("commit", "--quiet", "-m", "as it is")
    installed = made.run("Install the gate")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    pip = [str(made.python), "-m", "pip", "install", "--quiet", str(made.checkout)]
    subprocess.run(pip, check=True, timeout=60, env={**os.environ, **OFFLINE})
    shutil.rmtree(made.checkout / "build", ignore_errors=True)
    return made


def test_the_gate_that_runs_is_the_installed_one(outsider: Outsider) -> None:
    code = (
        "import perfsuite.plugin, parcel; print(perfsuite.plugin.__file__); print(parcel.__file__)"
    )
    command = [str(outsider.python), "-c", code]
    found = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    assert all(file.startswith(str(outsider.environment)) for file in found.stdout.split())


def test_what_another_machine_recorded_is_no_full_baseline(outsider: Outsider) -> None:
    """The action is strict; and the two words of one argument stay together."""
    done = outsider.run(
        "Measure",
        mode="gate",
        tests="tests/test_latency.py\n",
        arguments=f"-k 'pack or no' {QUICK}",
    )
    assert done.returncode == 10, done.stdout + done.stderr
    assert outsider.outputs["outcome"] == "not-judged"
    report = json.loads((outsider.checkout / outsider.outputs["report"]).read_text())
    assert [one["name"] for one in report["subjects"]] == ["pack"]
    assert "another machine's baseline" in report["subjects"][0]["reason"]
    assert "| pack |" in outsider.summary


def test_what_takes_ten_times_as_long_is_red(outsider: Outsider) -> None:
    done = outsider.run(
        "Measure", mode="gate", arguments=f"-k pack {QUICK}\n--perf-slowdown pack=10"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert outsider.outputs["outcome"] == "regression"
    assert "pack: regression" in done.stdout


def test_a_pull_request_is_compared_with_its_merge_base(outsider: Outsider) -> None:
    fork_point = outsider.git("rev-parse", "HEAD")
    outsider.git("switch", "--quiet", "-c", "change")
    source = outsider.checkout / "src" / "parcel" / "__init__.py"
    text = source.read_text()
    slower = text.replace("def label(", "import time\n\n\ndef label(").replace(
        "    return f", "    time.sleep(0.01)\n    return f"
    )
    source.write_text(slower)
    outsider.git("commit", "--quiet", "--all", "-m", "slower")
    event = {"pull_request": {"number": 1, "base": {"sha": fork_point}}}
    done = outsider.run("Measure", event, arguments=f"-k label {QUICK}")
    outsider.git("switch", "--quiet", "main")
    assert done.returncode == 1, done.stdout + done.stderr
    assert outsider.outputs["mode"] == "compare"
    assert outsider.outputs["outcome"] == "regression"
    report = json.loads((outsider.checkout / outsider.outputs["report"]).read_text())
    assert [one["verdict"] for one in report["benchmarks"]] == ["regression"]
    assert "| label | regression |" in outsider.summary
