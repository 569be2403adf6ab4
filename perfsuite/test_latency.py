"""Each stage against its baseline: slower is a failed test."""

from __future__ import annotations

import pytest

from perfsuite.latency_gate import LatencyGate
from perfsuite.llama.stage_benchmark import StageBenchmark
from perfsuite.llama.stage_workload import StageWorkload
from runtime import STAGES


@pytest.mark.timeout(600)  # several looks, each with fresh processes
@pytest.mark.parametrize("stage", STAGES)
def test_latency(stage: str, latency_gate: LatencyGate, pytestconfig: pytest.Config) -> None:
    workload = StageWorkload.of(pytestconfig)
    with StageBenchmark(stage, workload, latency_gate.delays(stage)) as benchmark:
        latency_gate(
            benchmark.forward,
            benchmark.unsplit_forward,
            name=stage,
            phases=benchmark.phases,
            workload=workload.as_key(),
        )
