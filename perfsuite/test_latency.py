"""Each stage against its baseline, a prompt's forward pass and single tokens after it: slower is a failed test."""

from __future__ import annotations

import pytest

from perfsuite.latency_gate import LatencyGate
from perfsuite.llama.stage_benchmark import DECODED, StageBenchmark
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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_decode_latency(stage: str, latency_gate: LatencyGate, pytestconfig: pytest.Config) -> None:
    name = f"{stage}-decode"
    workload = StageWorkload.of(pytestconfig)
    with StageBenchmark(stage, workload, latency_gate.delays(name)) as benchmark:
        latency_gate(
            benchmark.decode,
            benchmark.unsplit_decode,
            name=name,
            phases=benchmark.phases,
            workload={**workload.as_key(), "decoded": DECODED},
        )
