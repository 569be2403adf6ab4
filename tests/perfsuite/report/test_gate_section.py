"""The gate's verdicts on the page."""

from __future__ import annotations

import json
import math
from pathlib import Path

from perfsuite.__main__ import main
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.gate.reported import read_report


def test_what_the_gate_writes_is_shown(tmp_path: Path) -> None:
    one = Process(math.log(2.0), 3e-3, 1.5e-3, rounds=4)
    measured = Outcome("mine", "test_a.py::test_mine", Status.PASS, "why", [one], "own")
    skipped = Outcome("test_a.py::test_b", "test_a.py::test_b", Status.NOT_MEASURED, "skipped")
    path = tmp_path / "gate.json"
    content = {"machine": {"cpu": "Abacus 9"}, "subjects": [measured.as_json(), skipped.as_json()]}
    path.write_text(json.dumps(content))
    assert [subject.seconds for subject in read_report(path).subjects] == [0.003, None]
    page = tmp_path / "page.html"
    assert main(["report", "--gate", str(path), "--output", str(page)]) == 0
    text = page.read_text()
    assert "3.00 ms" in text
    assert "Abacus 9" in text


def test_a_benchmark_that_could_not_be_measured_is_shown(tmp_path: Path) -> None:
    subject = {"name": "fused", "verdict": "inconclusive", "latency_ms": 1.0, "ratio": None}
    path, page = tmp_path / "gate.json", tmp_path / "page.html"
    path.write_text(json.dumps({"subjects": [subject]}))
    assert main(["report", "--gate", str(path), "--output", str(page)]) == 0
    assert "inconclusive" in page.read_text()
