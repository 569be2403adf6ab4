"""A stage and a transport added as ``docs/extending.md`` says: a row, a file and a row, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perfsuite.llama.diagnosis.routes import ROUTES

pytestmark = pytest.mark.timeout(300)  # whole commands, while others use the machine

ROOT = Path(__file__).parents[2]
STAGE = '            Stage("extra", "extra-wire", "layer", "float32", "fused", _CLEAR_LAYERS),\n'
TRANSPORT = '''"""Another way to carry tensors: ZeroMQ under another name."""

from dataclasses import replace

from runtime.transports import zmq_msgpack

TRANSPORT = replace(zmq_msgpack.TRANSPORT, name="extra-wire", routes={"ipc": "extra-ipc"})
'''


def insert(file: Path, before: str, text: str) -> None:
    source = file.read_text()
    assert source.count(before) == 1
    file.write_text(source.replace(before, text + before))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with both."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("runtime", "perfsuite"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    insert(folder / "runtime/stages.py", '            Stage("bf16"', STAGE)
    (folder / "runtime/transports/extra_wire.py").write_text(TRANSPORT)
    registry = folder / "runtime/transports/registry.py"
    insert(registry, "zmq_msgpack.TRANSPORT", "extra_wire.TRANSPORT, ")
    insert(registry, "shared_memory, zmq_frames, zmq_msgpack\n", "extra_wire, ")
    return folder


def run(folder: Path, *arguments: str, status: int = 0) -> str:
    finished = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == status, finished.stdout + finished.stderr
    return finished.stdout


SMALL = ["--model", "tiny", "--tokens", "16", "--rounds", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def ladder(extended: Path) -> str:
    stages = ["--stages", "fused,extra", "--json", "ladder.json"]
    return run(extended, "perfsuite", "ladder", *SMALL, *stages)


@pytest.fixture(scope="module")
def diagnosis(extended: Path) -> str:
    stages = ["--stages", "extra", "--json", "diagnosis.json"]
    return run(extended, "perfsuite", "diagnose", *SMALL, *stages)


@pytest.fixture(scope="module")
def gate(extended: Path) -> str:
    test = ["perfsuite/test_latency.py", "-q", "-p", "no:cacheprovider", "-k", "extra"]
    return run(extended, "pytest", *test, "--perf-report=gate.json", status=1)


def test_the_ladder_climbs_it(extended: Path, ladder: str) -> None:
    assert "extra" in ladder
    rows = json.loads((extended / "ladder.json").read_text())["stages"]
    assert [row["name"] for row in rows] == ["fused", "extra"]
    assert [row["forecast_speedup"] for row in rows] == [6.6, None]
    assert rows[0]["payload_copies"] < rows[1]["payload_copies"]


@pytest.mark.slow
def test_the_diagnosis_explains_it(extended: Path, diagnosis: str) -> None:
    assert "extra-ipc" in diagnosis
    result = json.loads((extended / "diagnosis.json").read_text())
    assert [row["stage"] for row in result["prediction"]] == ["extra"]
    assert set(result["transport"]) == {*ROUTES, "extra-ipc"}


@pytest.mark.slow
def test_the_gate_asks_for_its_baseline(extended: Path, gate: str) -> None:
    # To record one takes a quiet machine.
    assert "extra: no-baseline" in gate
    assert (
        "record: pytest 'perfsuite/test_latency.py::test_latency[extra]' --update-baselines" in gate
    )
    rows = json.loads((extended / "gate.json").read_text())["subjects"]
    assert [(row["name"], row["verdict"]) for row in rows] == [
        ("extra", "no-baseline"),
        ("extra-decode", "no-baseline"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("ladder", "diagnosis", "gate")
def test_the_report_shows_it(extended: Path) -> None:
    inputs = ["--ladder", "ladder.json", "--diagnose", "diagnosis.json", "--gate", "gate.json"]
    run(extended, "perfsuite", "report", *inputs, "--output", "page.html")
    page = (extended / "page.html").read_text()
    shown = {section.split('"')[1]: section for section in page.split("<section ")[1:]}
    for name in ("ladder", "prediction", "verdicts"):
        assert ">extra<" in shown[name], name
    assert "extra-ipc" in shown["transports"]


@pytest.mark.slow
def test_its_budgets_are_recorded_and_then_held(extended: Path) -> None:
    budgets = ["pytest", "perfsuite/test_budgets.py", "-q", "-p", "no:cacheprovider"]
    run(extended, *budgets, "-k", "recorded and extra", status=1)  # not accepted yet
    run(extended, *budgets, "-k", "recorded", "--update-budgets")
    recorded = json.loads((extended / "perfsuite/budgets.json").read_text())
    assert recorded["payload_copies"]["extra"] > 0
    assert recorded["tiny"]["extra"] == recorded["tiny"]["fused"]
    before = json.loads((ROOT / "perfsuite/budgets.json").read_text())
    for stages in recorded.values():
        del stages["extra"]
    assert recorded == before
