"""The gate's report as the page reads it."""

from __future__ import annotations

import json
from pathlib import Path

from perfsuite.__main__ import main
from perfsuite.report.inputs import read_gate


def test_a_subject_that_could_not_be_measured_is_shown(tmp_path: Path) -> None:
    subject = {"name": "fused", "verdict": "inconclusive", "latency_ms": 1.0, "ratio": None}
    path = tmp_path / "gate.json"
    path.write_text(json.dumps({"subjects": [subject]}))
    (read,) = read_gate(path).subjects
    assert read.ratio is None
    assert main(["report", "--gate", str(path), "--output", str(tmp_path / "page.html")]) == 0
