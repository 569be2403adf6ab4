"""The gate on a stage of the real runtime, in a copy of the project whose worker somebody made slower."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[3]
GATE = ["-m", "pytest", "perfsuite/test_latency.py", "-k", "fused", "--benchmark-disable", "-q"]
CALL = "        self._device.run(request.call, inputs, outputs)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("runtime", "perfsuite"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "perfsuite" / "baselines.json").unlink()
    return tmp_path


def gate(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *GATE, *options]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)
def test_a_sleep_of_a_tenth_in_the_worker_is_caught_by_the_ratio(project: Path) -> None:
    recorded = gate(project, "--update-baselines")
    assert recorded.returncode == 0, recorded.stdout
    baselines = project / "perfsuite" / "baselines.json"
    (profile,) = json.loads(baselines.read_text())["profiles"]
    seconds = 0.1 * median(profile["entries"]["fused"]["latency_ms"]) / 1e3
    service = project / "runtime" / "service.py"
    text = service.read_text()
    assert text.count(CALL) == 1
    # Once a forward, in its last call.
    sleep = f"        time.sleep({seconds} * (request.call.operation == 'lm_head'))\n"
    service.write_text(text.replace(CALL, CALL + sleep))
    slower = gate(project)
    assert slower.returncode == 1, slower.stdout
    assert "fused: regression" in slower.stdout
    assert "grew most: device" in slower.stdout
    assert "constant that moved: device: FLOP/s and bytes/s" in slower.stdout
