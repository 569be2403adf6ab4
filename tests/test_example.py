"""``examples/gate-your-own`` as an outsider uses it: perfsuite and the example installed, then pytest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "gate-your-own"
QUICK = ["-o", "perf_processes=3", "-o", "perf_looks=2"]


@pytest.fixture(scope="module")
def outsider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's checkout and an environment of its own, ``environment/bin/python``.

    Dependencies are those of the running environment, so that nothing is downloaded; perfsuite and
    the example are built and installed, and the source tree is out of reach.
    """
    folder = tmp_path_factory.mktemp("outsider")
    python = folder / "environment" / "bin" / "python"
    venv.create(folder / "environment")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beneath = folder / "environment" / "lib" / version / "site-packages" / "beneath.pth"
    beneath.write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copytree(EXAMPLE, folder / "example")
    baselines = folder / "example" / "baselines.json"
    recorded = json.loads(baselines.read_text())
    # An outsider's machine is another one, wherever this test runs: judged by the portable ratios.
    baselines.write_text(json.dumps({**recorded, "profiles": []}))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    pip += ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, str(ROOT / "perfsuite"), str(folder / "example")], check=True, timeout=60)
    return folder


def gate(outsider: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    python = outsider / "environment" / "bin" / "python"
    return subprocess.run(
        [python, "-m", "pytest", "--benchmark-disable", *QUICK, *arguments],
        cwd=outsider / "example",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_the_gate_that_runs_is_the_installed_one(outsider: Path) -> None:
    code = (
        "import perfsuite.plugin, parcel; print(perfsuite.plugin.__file__); print(parcel.__file__)"
    )
    found = subprocess.run(
        [outsider / "environment" / "bin" / "python", "-c", code],
        cwd=outsider,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(file.startswith(str(outsider / "environment")) for file in found)


@pytest.mark.slow
def test_it_is_green_as_it_is_and_red_when_its_callable_is_slowed(outsider: Path) -> None:
    green = gate(outsider)
    assert green.returncode == 0, green.stdout
    assert "2 passed" in green.stdout
    red = gate(outsider, "-k", "test_pack", "--perf-slowdown", "pack=4")
    assert red.returncode == 1, red.stdout
    assert "1 failed" in red.stdout
    assert "pack: regression" in red.stdout
