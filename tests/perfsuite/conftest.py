from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from io import StringIO
from typing import Any

import pytest
from hypothesis import settings
from rich.console import Console

from perfsuite.llama.forecast import FORECAST
from perfsuite.llama.results import PHASES
from perfsuite.render import terminal
from perfsuite.render.blocks import Block
from tests.perfsuite.sessions import made as made

# Others may use the machine as much as they like.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

Build = Callable[..., dict[str, Any]]
Golden = Callable[[str, str], None]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Holds a text against the stored file of that name, or stores it anew under ``--update-golden``."""

    def hold(name: str, text: str) -> None:
        stored = request.path.parent / "golden" / name
        if request.config.getoption("update_golden"):
            stored.parent.mkdir(exist_ok=True)
            stored.write_text(text, encoding="utf-8")
        assert text == stored.read_text(encoding="utf-8")

    return hold


def plain_json(content: object) -> str:
    """JSON as a person reads it, its figures with six digits: the last ones may differ between processors."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: rounded(one) for name, one in value.items()}
        if isinstance(value, list):
            return list(map(rounded, value))
        return float(f"{value:.6g}") if isinstance(value, float) else value

    parsed = json.loads(json.dumps(content, allow_nan=False))
    return json.dumps(rounded(parsed), indent=1, ensure_ascii=False) + "\n"


def shown(blocks: Iterable[Block], **options: Any) -> str:
    """What a terminal shows of ``blocks`` that is a file."""
    console = Console(file=StringIO(), markup=False, emoji=False, highlight=False)
    terminal.show(blocks, console, **options)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.fixture
def build_result() -> Build:
    """A ladder of all stages as ``--json`` writes it; ``scale`` stretches its figures, keywords replace its fields."""

    def build(scale: float = 1.0, **fields: Any) -> dict[str, Any]:
        latency = {"median": 1.5 * scale, "low": 1.4 * scale, "high": 1.7 * scale}
        token = {"id": 1, "text": " the"}
        stages: list[dict[str, Any]] = [
            {
                "name": name,
                "latency_s": latency,
                "samples_s": [1.5 * scale],
                "vs_baseline": 2.0 * scale,
                "vs_baseline_interval": {"low": 1.9 * scale, "high": 2.1 * scale},
                "vs_unsplit": 0.5 * scale,
                "vs_unsplit_interval": {"low": 0.4 * scale, "high": 0.6 * scale},
                "forecast_speedup": row.speedup,
                "rpc_count": 182,
                "bytes_sent": int(123_456_789 * scale),
                "bytes_received": int(987_654_321 * scale),
                "payload_copies": 0,
                "phases_s": dict.fromkeys(PHASES, 0.3 * scale),
                "next_token": {"id": 1, "text": " the"},
                "dtype": "float32",
                "worker_sees": "all linear inputs and outputs, Q, K, V, attention weights",
                "device_name": "a processor with a rather long name, 96 cores",
                "threads": 2,
                "kernels": "prepacked",
            }
            for name, row in FORECAST.items()
        ]
        unsplit: dict[str, Any] = {
            "latency_s": latency,
            "samples_s": [1.5 * scale],
            "next_token": {"id": 1, "text": " the"},
        }
        result: dict[str, Any] = {
            "model": "tiny",
            "tokens": 1024,
            "prompt": "shipped passage",
            "rounds": 5,
            "seed": 0,
            "device": "cpu",
            "confidence": 0.9375,
            "command": "perfsuite ladder",
            "machine": {
                "cpu": "a processor with a rather long name, 96 cores",
                "cores": 2,
                "threads": 2,
                "gpu": None,
                "driver": None,
                "torch": "2.13.0+cpu",
                "cuda": None,
                "python": "3.11.7",
                "kernel": "6.1.0",
            },
            "disturbed_runs": {},
            "next_token_agrees": True,
            "unsplit": {"float32": unsplit, "bfloat16": {**unsplit, "next_token": token}},
            "stages": stages,
        }
        return {**result, **fields}

    return build
