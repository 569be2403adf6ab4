"""Each stage against its baseline: slower is a failed test."""

from __future__ import annotations

import pytest

from perfsuite.plugin import LatencyGate
from runtime import STAGES


@pytest.mark.timeout(600)  # several looks, each with fresh processes
@pytest.mark.parametrize("stage", STAGES)
def test_latency(stage: str, latency_gate: LatencyGate) -> None:
    latency_gate.stage(stage)
