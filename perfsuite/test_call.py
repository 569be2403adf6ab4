"""What a call costs that carries no tensor: ``pytest perfsuite/test_call.py``."""

from __future__ import annotations

import time
import timeit
from statistics import median

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from runtime import SplitLlama, load_checkpoint
from runtime.trace import RpcRecord, WorkerDurations

_ROUNDS = 2000
_WARM_UP = 200


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_metadata_only_call(stage: str, benchmark: BenchmarkFixture) -> None:
    """Time whole calls; the table also shows how much of one is the road itself, in microseconds."""
    with SplitLlama.launch(load_checkpoint("tiny"), stage=stage) as llama:
        roads: list[float] = []

        def call() -> None:
            llama.ping()
            roads.append(llama.last_trace.rpcs[0].transport_s)

        benchmark.pedantic(  # type: ignore[no-untyped-call]
            call, rounds=_ROUNDS, warmup_rounds=_WARM_UP
        )
    # A disabled pytest-benchmark calls once, and does not warm up.
    road_s = median(roads[-_ROUNDS:])
    benchmark.extra_info["transport_us_p50"] = round(road_s * 1e6, 1)
    # The worker's durations are checked against the round trip; a fault there would show here.
    assert min(roads) > 0


def test_the_trace_costs_less_than_a_hundredth_of_a_forward(benchmark: BenchmarkFixture) -> None:
    """Everything that a call does only to be recorded, against a forward of real weights, 256 tokens."""

    def record() -> RpcRecord:
        at = [time.perf_counter() for _ in range(5)]
        durations = WorkerDurations(at[1] - at[0], at[2] - at[1], at[3] - at[2])
        return RpcRecord(
            "matmul",
            0,
            1,
            1,
            0,
            at[1] - at[0] + durations.serialize_s,
            durations.total_s,
            0.0,
            0.0,
            at[4] - at[0],
        )

    checkpoint = load_checkpoint("smollm2-135m")
    with SplitLlama.launch(checkpoint, stage="shared-memory") as llama:
        totals = []
        for _ in range(3):
            llama.forward(range(256))
            totals.append(llama.last_trace.totals())
    benchmark(record)
    per_call_s = timeit.timeit(record, number=10_000) / 10_000
    assert per_call_s * totals[0]["rpc_count"] < 0.01 * median(total["total_s"] for total in totals)


def test_metadata_only_call_is_cheaper_than_a_messaging_library() -> None:
    """Interleaved on this machine: the socket alone against ZeroMQ."""
    checkpoint = load_checkpoint("tiny")
    roads: dict[str, list[float]] = {"baseline": [], "shared-memory": []}
    with (
        SplitLlama.launch(checkpoint, stage="baseline") as baseline,
        SplitLlama.launch(checkpoint, stage="shared-memory") as shared_memory,
    ):
        for _ in range(_ROUNDS):
            for llama in (baseline, shared_memory):
                llama.ping()
                roads[llama.stage.name].append(llama.last_trace.rpcs[0].transport_s)
    assert median(roads["shared-memory"]) < median(roads["baseline"])
