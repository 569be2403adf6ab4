from __future__ import annotations

import math
import time

import pytest
import torch

from runtime import SplitLlama, load_checkpoint
from runtime.delay_injection import CALL_PHASES, PHASES, TOTAL, Delays, parse_factor
from runtime.errors import InputError
from runtime.trace import RpcRecord, WorkerDurations
from tests.runtime.models import serve_in_thread

RECORD = RpcRecord(
    operation="matmul",
    layer=3,
    bytes_sent=10,
    bytes_received=20,
    payload_copies=1,
    serialize_s=1.0,
    transport_s=2.0,
    device_s=4.0,
    deserialize_s=8.0,
    total_s=15.0,
    started_s=100.0,
    worker=WorkerDurations(deserialize_s=3.0, device_s=4.0, serialize_s=0.5),
)


def seconds(record: RpcRecord) -> dict[str, float]:
    return {phase: getattr(record, f"{phase}_s") for phase in CALL_PHASES}


@pytest.mark.parametrize("phase", CALL_PHASES)
def test_a_phase_and_the_worker_s_share_of_it_take_the_factor(phase: str) -> None:
    longer = Delays({phase: 3.0}).stretched(RECORD, outside_s=7.0)
    expected = seconds(RECORD)
    expected[phase] *= 3.0
    assert seconds(longer) == expected
    assert longer.total_s == sum(expected.values())
    for name in ("deserialize", "device", "serialize"):
        own = getattr(RECORD.worker, f"{name}_s")
        assert getattr(longer.worker, f"{name}_s") == own * (3.0 if name == phase else 1.0)
    told = {*RpcRecord.__struct_fields__} - {f"{phase}_s", "total_s", "worker"}
    assert all(getattr(longer, name) == getattr(RECORD, name) for name in told)


def test_the_whole_takes_its_factor_with_what_was_before_the_call_and_is_the_device_s() -> None:
    longer = Delays({TOTAL: 1.5}).stretched(RECORD, outside_s=5.0)
    assert longer.device_s == longer.worker.device_s == 4.0 + 0.5 * (15.0 + 5.0)
    assert longer.total_s == sum(seconds(longer).values()) == 25.0


def test_phases_that_are_not_named_stay() -> None:
    assert Delays({"trusted": 3.0}).stretched(RECORD, outside_s=7.0) == RECORD
    assert Delays({"trusted": 3.0}).longer("trusted", 7.0) == 14.0
    assert Delays({"transport": 3.0}).longer("transport", -1e-9) == 0.0


@pytest.mark.parametrize(
    "factors", [{"lunch": 2.0}, {"device": 0.5}, {"device": math.nan}, {"device": math.inf}]
)
def test_nonsense_is_refused(factors: dict[str, float]) -> None:
    with pytest.raises(InputError, match="slowdown"):
        Delays(factors)


@pytest.mark.parametrize("text", ["device", "device=", "device=fast"])
def test_a_malformed_factor_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="slowdown"):
        Delays(dict([parse_factor(text)]))


@pytest.mark.parametrize("stage", ["baseline", "fused"])
@pytest.mark.parametrize("phase", [*PHASES, TOTAL])
def test_a_forward_pass_takes_what_its_trace_says(phase: str, stage: str) -> None:
    """The phases sum to the total, and the time has passed: no call began before its record's end."""
    asked: list[float] = []

    class Spy(Delays):
        def longer(self, phase: str, seconds: float) -> float:
            asked.append(super().longer(phase, seconds))
            return asked[-1]

    with serve_in_thread(load_checkpoint("tiny"), stage, delays=Spy({phase: 40.0})) as llama:
        asked.clear()
        began = time.perf_counter()
        llama.forward(torch.arange(8))
        passed = time.perf_counter() - began
    trace = llama.last_trace
    found = trace.totals()
    parts = {part: float(found[f"{part}_s"]) for part in PHASES}  # type: ignore[literal-required]
    assert sum(parts.values()) == pytest.approx(trace.total_s)
    assert trace.total_s <= passed
    starts = [rpc.started_s for rpc in trace.rpcs]
    ends = [rpc.started_s + rpc.total_s for rpc in trace.rpcs]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    # 39 of 40 parts were waited for, by whoever was slow: of the worker's share none twice.
    longer = parts["device" if phase == TOTAL else phase]
    waited = sum(asked) - _shares_of_the_worker(llama, phase)
    assert 0 < waited <= longer * (1 + 1e-9)
    if phase in CALL_PHASES:
        assert waited == pytest.approx(longer * 39 / 40)


def test_what_a_caller_asks_for_is_what_happens() -> None:
    with SplitLlama.launch(
        load_checkpoint("tiny"), "fused", threads=1, slowdown={"trusted": 1000.0}
    ) as llama:
        llama.forward(torch.arange(8))
    totals = llama.last_trace.totals()
    assert totals["trusted_s"] > 0.5 * totals["total_s"]


def _shares_of_the_worker(llama: SplitLlama, phase: str) -> float:
    if phase not in ("serialize", "device", "deserialize"):
        return 0.0
    own: list[float] = [getattr(rpc.worker, f"{phase}_s") for rpc in llama.last_trace.rpcs]
    return sum(own) * 39 / 40
