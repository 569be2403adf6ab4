from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfsuite.history.rates import noise

Document = Callable[..., dict[str, Any]]
WriteRuns = Callable[..., list[str]]

FINGERPRINT = {
    "cpu": "Abacus 9",
    "cpu_model": "25.17",
    "cores": 2,
    "threads": 1,
    "gpu": None,
    "driver": None,
    "torch": "2.13.0",
    "cuda": None,
    "python": "3.11.7",
    "kernel": "6.1",
}


@pytest.fixture
def document() -> Document:
    """A file as pytest-benchmark writes it, with the gate's ``extra_info`` where ``ratio`` is given."""

    def build(
        number: int = 0,
        *,
        commit: str | None = None,
        ratio: float | None = None,
        seconds: float = 0.002,
        subject: str = "fused",
        **extra: Any,
    ) -> dict[str, Any]:
        when = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
        benchmark: dict[str, Any] = {
            "group": None,
            "name": f"test_latency[{subject}]",
            "fullname": f"perfsuite/test_latency.py::test_latency[{subject}]",
            "params": {"stage": subject},
            "param": subject,
            "extra_info": {},
            "options": {},
            "stats": {"median": seconds, "min": seconds, "max": seconds, "rounds": 5},
        }
        if ratio is not None:
            benchmark["extra_info"] = {
                "subject": subject,
                "ratio": ratio,
                "latency_ms": seconds * 1e3,
                "verdict": "pass",
                "change": 1.0,
                "change_interval": [0.96, 1.05],
                "machine": FINGERPRINT,
                "workload": {"model": "tiny", "tokens": 64, "device": "cpu"},
                **extra,
            }
        return {
            "machine_info": {
                "node": "host",
                "processor": "x86_64",
                "machine": "x86_64",
                "python_implementation": "CPython",
                "python_version": "3.11.7",
                "release": "6.1",
                "system": "Linux",
                "cpu": {"brand_raw": "Abacus 9", "count": 2},
            },
            "commit_info": {
                "id": commit or commit_of(number),
                "time": when.isoformat(),
                "dirty": False,
                "branch": "main",
            },
            "benchmarks": [benchmark],
            "datetime": (when + timedelta(hours=1)).isoformat(),
            "version": "5.3.1",
        }

    return build


@pytest.fixture
def write_runs(document: Document) -> WriteRuns:
    """Writes one file per value into a folder as pytest-benchmark does; returns the commits."""

    def write(folder: Path, values: Sequence[float], **fields: Any) -> list[str]:
        place = folder / "Linux-CPython-3.11-64bit"
        place.mkdir(parents=True, exist_ok=True)
        commits = []
        for number, value in enumerate(values):
            content = document(number, ratio=value, **fields)
            commits.append(content["commit_info"]["id"])
            name = f"{number + 1:04}_{commits[-1]}_2026.json"
            (place / name).write_text(json.dumps(content))
        return commits

    return write


def commit_of(number: int) -> str:
    return f"{number + 1:03x}" + "0" * 37


def levels(*steps: float, each: int = 30, seed: int = 0) -> list[float]:
    """Runs on each of the levels, with 1 % of correlated noise."""
    logs = noise(np.random.default_rng(seed), 1, each * len(steps), spread=0.01, phi=0.3)[0]
    return list(np.repeat(steps, each) * np.exp(logs))
