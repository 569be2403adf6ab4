"""The command as its users run it, on recorded reports and once for real."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfsuite.__main__ import main
from perfsuite.calibration.suites import Folder, equal, slower
from perfsuite.errors import MeasurementError
from perfsuite.gate.baselines import Baselines, Entry, Process, Profile, write

SHARES = {"serialize": 0.1, "transport": 0.1, "device": 1.0, "deserialize": 0.1, "trusted": 0.1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    entry = Entry([Process([log(2.0)] * 4, 1.0, 1.0, SHARES)] * 9, 0.02)
    write(tmp_path / "baselines.json", Baselines([Profile({}, {}, {}, {"fused": entry})]))
    return tmp_path


def subject(verdict: str, grew_most: str, *, scale: float, seed: int) -> Mapping[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "name": "fused",
        "verdict": verdict,
        "grew_most": grew_most,
        "processes": 8,
        "looks": 1,
        "disturbed_rounds": 0,
        "off_speed_rounds": 0,
        "yardstick_seconds": [[1.0] * 6] * 8,
        "samples": rng.normal(log(2.0 * scale), 0.005, (8, 6)).tolist(),
        "seconds": rng.normal(scale, 0.01, (8, 30)).tolist(),
    }


def store(folder: Path, kind: str, number: int, found: Mapping[str, Any]) -> None:
    (folder / f"{kind}-{number:03}.json").write_text(json.dumps({"subjects": [found]}))


def test_what_was_recorded_is_counted_and_simulated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        store(folder, "equal", number, subject("pass", "device", scale=1.0, seed=number))
        phase = "device" if number else "trusted"
        store(folder, "total+10%", number, subject("regression", phase, scale=1.1, seed=9 + number))
    document = folder / "calibration.md"
    options = ["--equal=3", "--slowed=0", "--phases=0", "--simulations=20", f"--write={document}"]
    # No slowed run is wanted beyond what is there.
    assert main(["calibrate", str(folder), *options]) == 0
    assert "failed: **0 of 3 [0%, 71%]**" in capsys.readouterr().out
    assert "### fused" in document.read_text()
    assert document.with_suffix(".svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("options", "problem"),
    [(["--equal=0"], "nothing to compare"), (["--slowed=-1"], "must not be negative")],
)
def test_numbers_that_make_no_sense(
    folder: Path, options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(folder), *options]) == 2
    assert problem in capsys.readouterr().err


def test_a_damaged_report_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "equal-000.json").write_text("{}")
    assert main(["calibrate", str(folder), "--equal=1", "--slowed=0", "--phases=0"]) == 2
    assert "equal-000.json: is damaged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_run_is_slowed_and_its_report_is_kept(tmp_path: Path) -> None:
    few = ["-kfused", "-operf_processes=3", "-operf_looks=1"]
    folder = Folder(tmp_path / "runs", few)
    folder.record_baselines(extensions=0)
    made = folder.run(slower(1.0))
    assert made.red
    assert made.subjects["fused"]["grew_most"] == "device"
    assert [run.subjects for run in folder.runs(slower(1.0))] == [made.subjects]
    assert folder.processes == 3
    assert folder.runs(equal()) == []


def test_a_run_without_verdicts_is_an_error_that_shows_why(folder: Path) -> None:
    with pytest.raises(MeasurementError, match="perf_threads = 0: must be a positive number"):
        Folder(folder, ["-operf_threads=0"]).run(equal())
