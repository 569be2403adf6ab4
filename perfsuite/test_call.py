"""What a call costs that carries no tensor: ``pytest perfsuite/test_call.py``."""

from __future__ import annotations

from statistics import median

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from runtime import SplitLlama, load_checkpoint

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
    road_s = median(roads[_WARM_UP:])
    benchmark.extra_info["transport_us_p50"] = round(road_s * 1e6, 1)
    # The worker's durations are checked against the round trip; a fault there would show here.
    assert min(roads) > 0


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
