"""Each stage against its baseline, a prompt's forward pass and single tokens after it: slower is a failed test."""

from __future__ import annotations

import pytest

from perfsuite.latency_gate import LatencyGate
from perfsuite.llama.stage_benchmark import DECODED, StageBenchmark
from perfsuite.llama.stage_workload import StageWorkload, gated_stages
from runtime.stages import ladder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gate the stages of the ini setting ``perf_stages``."""
    named = gated_stages(metafunc.config)
    metafunc.parametrize("stage", named or [stage.name for stage in ladder()])


@pytest.mark.timeout(600)  # several looks, each with fresh processes
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
