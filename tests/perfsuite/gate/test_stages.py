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
ATTEMPTS = (
    4  # there may be no verdict where the machine changes its speed; a green one is never right
)
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


def gate(project: Path, *options: str) -> str:
    # Fewer than by default, so that little time passes between what is compared.
    command = [sys.executable, *GATE, "-o", "perf_processes=8", *options]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False).stdout


def slowed(text: str, project: Path, share: float) -> str:
    """Return ``service.py`` whose worker sleeps ``share`` of a forward, in the last call of each."""
    data = json.loads((project / "perfsuite" / "baselines.json").read_text())
    processes = data["profiles"][0]["entries"]["fused"]["processes"]
    seconds = share * median(process["latency_ms"] for process in processes) / 1e3
    assert text.count(CALL) == 1
    sleep = f"        time.sleep({seconds} * (request.call.operation == 'lm_head'))\n"
    return text.replace(CALL, CALL + sleep)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_a_sleep_in_the_worker_is_caught_by_the_ratio(project: Path, share: float) -> None:
    service = project / "runtime" / "service.py"
    text = service.read_text()
    output = ""
    for _ in range(ATTEMPTS):
        service.write_text(text)
        output = gate(project, "--update-baselines")
        if "not recorded" in output:
            continue
        service.write_text(slowed(text, project, share))
        output = gate(project)
        if "inconclusive" not in output:
            break
    assert "fused: regression" in output, output
    assert "grew most: device" in output
    assert "constant that moved: device: FLOP/s and bytes/s" in output
