"""The diagnosis' JSON: what was written reads the same, and what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perfsuite.errors import UsageError
from perfsuite.llama.diagnosis.result import Curve, Route, Sweep, read_diagnosis
from perfsuite.llama.results import PHASES

SENT = {"sent": {"bytes": [1024, 2048], "round_trip_s": [1e-4, 2e-4]}}
WHOLE: dict[str, Any] = {
    "model": "tiny",
    "transport": {"zmq-ipc": {"back_to_back": SENT, "between_sweeps": SENT}, "gone": None},
    "prediction": [{"stage": "fused", "predicted_s": 1.1, "measured_s": 1.0, "error": 0.1}],
    "projection": {
        "assumed": ["device=abacus"],
        "stages": [
            {
                "name": "fused",
                "projected_s": 0.5,
                "phases_s": dict.fromkeys(PHASES, 0.1),
                "bound": "memory",
                "rpc_count": 18,
            }
        ],
    },
}


def stored(folder: Path, content: object) -> Path:
    path = folder / "diagnosis.json"
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    found = read_diagnosis(stored(tmp_path, WHOLE))
    assert read_diagnosis(stored(tmp_path, found.as_json())) == found
    assert found.transport is not None
    assert found.transport["gone"] is None
    assert found.prediction[0].measured_interval_s is None


def test_a_curve_s_points_come_by_size() -> None:
    curve = Curve(bytes=(2048, 1024), round_trip_s=(2e-4, 1e-4))
    assert curve.points == [(1024, 1e-4), (2048, 2e-4)]


def test_a_route_has_what_was_swept_of_it() -> None:
    curve = Curve(bytes=(1024,), round_trip_s=(1e-4,))
    assert Route().sent == {}
    assert Route(cold=Sweep(curve)).sent == {"cold": curve}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prediction": None}, "prediction"),
        ({"prediction": [{"stage": "fused", "predicted_s": -1}]}, r"prediction\[0\]"),
        ({"transport": {"a": {"back_to_back": {"sent": {"bytes": [1]}}}}}, "round_trip_s"),
        (
            {"transport": {"a": {"back_to_back": {"sent": {"bytes": [1], "round_trip_s": []}}}}},
            "1 bytes, 0 round_trip_s",
        ),
        ({"transport": {"a": {"back_to_back": {"sent": {"bytes": [0], "round_trip_s": [1]}}}}}, "bytes"),
    ],
)  # fmt: skip
def test_a_damaged_field_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        read_diagnosis(stored(tmp_path, {**WHOLE, **change}))


@pytest.mark.parametrize("phase", PHASES)
def test_a_projection_without_a_phase_is_refused(tmp_path: Path, phase: str) -> None:
    content = json.loads(json.dumps(WHOLE))
    del content["projection"]["stages"][0]["phases_s"][phase]
    with pytest.raises(UsageError, match=f"phases_s.{phase}"):
        read_diagnosis(stored(tmp_path, content))
