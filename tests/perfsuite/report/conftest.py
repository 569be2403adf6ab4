from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfsuite.__main__ import main
from perfsuite.llama.results import PHASES

Build = Callable[..., dict[str, Any]]
MakePage = Callable[..., str]

HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\ud800\x00|`"
NAMES = ("baseline", "shared-memory", "fused", "bf16")


@pytest.fixture
def make_page(tmp_path: Path, build_result: Build) -> MakePage:
    """The whole page by the command, every name in its inputs ``name`` when that is given."""

    def make(name: str | None = None, *, only: str | None = None) -> str:
        ladder: Any = build_result()
        if name is not None:
            ladder.update(model=name, device=name, command=name)
            ladder["machine"] = {"cpu": name, name: "x"}
            for row in ladder["stages"]:
                row.update(name=name, worker_sees=name, kernels=name)
        inputs = {"ladder": ladder, "diagnose": _diagnosis(name), "gate": _gate(name)}
        arguments = []
        for option, content in inputs.items():
            path = tmp_path / f"{option}.json"
            path.write_text(json.dumps(content))
            arguments += [f"--{option}", str(path)]
        storage = tmp_path / "runs"
        storage.mkdir(exist_ok=True)
        _store(storage, name)
        arguments += ["--storage", str(storage)]
        if only is not None:
            place = arguments.index(f"--{only}")
            arguments = arguments[place : place + 2]
        output = tmp_path / "report.html"
        assert main(["report", *arguments, "--output", str(output)]) == 0
        return output.read_text(encoding="utf-8")

    return make


def _diagnosis(name: str | None) -> dict[str, Any]:
    routes = {"zmq-tcp": (150e-6, 4e8), "zmq-ipc": (120e-6, 5e8), "shared-memory": (12e-6, 6e9)}
    sizes = [10.0**power for power in range(3, 9)]
    return {
        "command": name or "perfsuite diagnose --json F",
        "machine": {"cpu": name or "Abacus 9"},
        "transport": {
            (name or "") + route: {
                how: {
                    "sent": {
                        "bytes": sizes,
                        "round_trip_s": [slower * (first + size / rate) for size in sizes],
                    }
                }
                for how, slower in (("back_to_back", 1), ("between_sweeps", 3))
            }
            for route, (first, rate) in routes.items()
        },
        "prediction": [
            {
                "stage": name or stage,
                "predicted_s": 1.1,
                "measured_s": 1.0,
                "measured_interval_s": {"low": 0.9, "high": 1.3},
                "error": 0.1,
                "predicted_phases_s": dict.fromkeys(PHASES, 0.22),
                "measured_phases_s": dict.fromkeys(PHASES, 0.2),
                "bound": name or "memory",
                "hangs_on": name or "device: FLOP/s",
            }
            for stage in NAMES
        ],
        "projection": {
            "assumed": [name or "device=abacus"],
            "title": name or "Abacus 9",
            "source": name or "Datasheet",
            "stages": [
                {
                    "name": name or stage,
                    "projected_s": 0.5,
                    "phases_s": dict.fromkeys(PHASES, 0.1),
                    "rpc_count": 18,
                    "bound": name or "memory",
                }
                for stage in NAMES
            ],
        },
    }


def _gate(name: str | None) -> dict[str, Any]:
    verdicts = ("pass", "regression", "inconclusive", "improved")
    return {
        "command": name or "pytest --perf-report gate.json",
        "subjects": [
            {
                "name": name or stage,
                "verdict": name or verdict,
                "reason": name or "the interval lies where it lies",
                "ratio": 1.5,
                "latency_ms": 18.7,
                "change": 1.05,
                "change_interval": [0.9, 1.2],
                "margin": 0.05,
                "grew_most": name or "device",
                "processes": 8,
            }
            for stage, verdict in zip(NAMES, verdicts, strict=True)
        ],
    }


def _store(folder: Path, name: str | None) -> None:
    """Forty runs of two subjects; the first of them becomes 20 % slower."""
    rng = np.random.default_rng(0)
    for number in range(40):
        when = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)).isoformat()
        benchmarks = [
            {
                "name": "test",
                "stats": {"median": 0.002},
                "extra_info": {
                    "subject": name or subject,
                    "ratio": level * float(np.exp(rng.normal(0, 0.01))),
                    "latency_ms": 2.0,
                    "verdict": name or "pass",
                    "machine": {"cpu": name or "Abacus 9", "torch": name or "2.13.0"},
                    "workload": {"model": name or "tiny", "tokens": 64},
                },
            }
            for subject, level in (("fused", 1.5 if number < 20 else 1.8), ("bf16", 1.4))
        ]
        run = {
            "machine_info": {},
            "commit_info": {"id": name or f"{number:040x}", "time": when},
            "benchmarks": benchmarks,
            "datetime": when,
        }
        (folder / f"{number:04}_x.json").write_text(json.dumps(run))
