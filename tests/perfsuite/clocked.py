"""Projects whose measured processes have a clock of the tests' own, which only subjects move on.

So verdicts are certain whatever else uses the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any

import pytest

from perfsuite.bench import _FINGERPRINT
from perfsuite.gate.baselines import Baselines, Entry, Plan, Recording
from perfsuite.gate.process import Process
from perfsuite.machine import fingerprint

CLOCK = """
import os, time

NOW = [0.0]

def tick():
    NOW[0] += 1e-7
    return NOW[0]

def taking(seconds):
    def subject():
        NOW[0] += seconds
    return subject

if "PERFSUITE_PADDING" in os.environ:
    time.perf_counter = tick
"""
PLAN = Plan(loops=1, reference_loops=1, runs=1, rounds=2, discarded=0)


def here(**other: Any) -> dict[str, Any]:
    found = fingerprint(1)
    return {name: found[name] for name in _FINGERPRINT} | other  # type: ignore[literal-required]


def store(
    project: pytest.Pytester,
    *ratios: float,
    name: str = "mine",
    commit: str = "abc",
    recorded: Mapping[str, str] | None = None,
    **machine: Any,
) -> Path:
    """Store that ``name`` took so many times its reference in three recordings, one of each of three ratios.

    ``recorded`` is further provenance.
    """
    path = project.path / "baselines.json"
    recordings = [
        Recording(
            {"commit": commit, "date": f"2026-01-0{day}T00:00Z", **(recorded or {})},
            [Process(log(ratio), 2.1e-3 * ratio, 2.1e-3, "a", rounds=2)] * 6,
        )
        for day, ratio in enumerate(ratios if len(ratios) > 1 else 3 * ratios, start=1)
    ]
    entry = Entry(name, here(**machine), {}, "own", "", PLAN, None, recordings)
    Baselines.read(path).record(entry)
    return path
