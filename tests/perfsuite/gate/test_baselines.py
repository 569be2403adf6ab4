from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfsuite.errors import UsageError
from perfsuite.gate.baselines import (
    LEAST_MARGIN,
    Baselines,
    Entry,
    Process,
    Profile,
    fingerprint_of,
    measured_margin,
    read,
    write,
)
from perfsuite.gate.speed import Sample
from perfsuite.machine import fingerprint

MACHINE = {"cpu": "one", "threads": 1}
WORKLOAD = {"model": "tiny", "tokens": 64}


def entry(ratio: float = 2.0) -> Entry:
    return Entry(
        [
            Process(
                [round(float(np.log(ratio)) + 0.001 * i + 0.0001 * j, 4) for j in range(4)],
                latency_ms=10.0 + 0.1 * i,
                yardstick_ms=8.0 + 0.1 * i,
                phases={"device": 1.25},
            )
            for i in range(4)
        ],
        margin=0.05,
    )


def stored(path: Path) -> Baselines:
    baselines = Baselines([Profile(MACHINE, WORKLOAD, {"commit": "abc"}, {"fused": entry()})])
    write(path, baselines)
    return baselines


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "baselines.json"
    stored(path)
    again = read(path)
    profile = again.find(MACHINE, WORKLOAD)
    assert profile is not None
    assert profile.entries["fused"] == entry()
    assert again.portable["fused"] == pytest.approx(2.0, rel=0.01)
    assert again.find({**MACHINE, "cpu": "other"}, WORKLOAD) is None


def test_writing_what_was_read_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "baselines.json"
    stored(path)
    before = path.read_bytes()
    write(path, read(path))
    assert path.read_bytes() == before


def test_a_diff_has_one_line_per_process(tmp_path: Path) -> None:
    path = tmp_path / "baselines.json"
    stored(path)
    lines = path.read_text().splitlines()
    assert sum("latency_ms" in line for line in lines) == 4
    assert not any("latency_ms" in line and "rounds" not in line for line in lines)


def test_a_file_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json") == Baselines()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("{", "damaged"),
        ("[]", "schema"),
        ('{"schema": 0}', "older"),
        ('{"schema": 99}', "newer"),
        ('{"schema": 5}', "profiles"),
        ('{"schema": 5, "profiles": [{}], "portable": {}}', "machine"),
        ('{"schema": 5, "profiles": [], "portable": {"fused": -1}}', "positive"),
        ('{"schema": 5, "profiles": 3, "portable": {}}', "damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_fault(
    tmp_path: Path, damage: str, named: str
) -> None:
    path = tmp_path / "baselines.json"
    path.write_text(damage)
    with pytest.raises(UsageError, match=named):
        read(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("margin", 0),
        ("margin", "wide"),
        ("margin", True),
        ("ratio", 3.0),
        ("processes", []),
        ("processes", 4),
    ],
)
def test_a_damaged_entry_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "baselines.json"
    stored(path)
    data = json.loads(path.read_text())
    data["profiles"][0]["entries"]["fused"][field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", [0.7, 0.7]),
        ("rounds", [0.7, 0.7, None, 0.7]),
        ("latency_ms", -1.0),
        ("latency_ms", [8.0]),
        ("yardstick_ms", 0),
        ("yardstick_ms", "8"),
        ("phases", {"device": "long"}),
        ("phases", {"device": [1.0]}),
        ("phases", {"other": 1.25}),
        ("phases", {}),
    ],
)
def test_a_damaged_process_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "baselines.json"
    stored(path)
    data = json.loads(path.read_text())
    data["profiles"][0]["entries"]["fused"]["processes"][1][field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="damaged"):
        read(path)


def test_the_margin_is_what_unchanged_runs_differ_by() -> None:
    rng = np.random.default_rng(0)
    quiet = Sample([[0.5] * 4] * 12, [1.0] * 12)
    noisy = Sample([[value] * 4 for value in rng.normal(0.5, 0.1, 12)], [1.0] * 12)
    assert measured_margin(quiet, 4) == LEAST_MARGIN
    assert 0.05 < measured_margin(noisy, 4) < 0.3


def test_what_a_speed_explains_is_no_noise() -> None:
    seconds = np.linspace(1.0, 1.6, 36)
    followed = Sample([[value] * 4 for value in -0.5 * np.log(seconds)], seconds.tolist())
    assert measured_margin(followed, 8) == LEAST_MARGIN


def test_a_fingerprint_leaves_out_what_latency_does_not_hang_on() -> None:
    machine = fingerprint(2)
    assert fingerprint_of({**machine, "kernel": "other"}) == fingerprint_of(machine)
    assert fingerprint_of({**machine, "torch": "other"}) != fingerprint_of(machine)
