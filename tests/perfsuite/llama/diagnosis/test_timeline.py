from __future__ import annotations

import json
from typing import Any

import pytest

from perfsuite.llama.diagnosis.timeline import Event, chrome_trace, profiled_events, trace_events
from runtime.trace import RpcRecord, Trace, WorkerDurations


def record(started_s: float, layer: int | None) -> RpcRecord:
    """1 ms: 0.2 serialize (half of it the worker's), 0.2 transport, 0.4 device, 0.2 deserialize."""
    return RpcRecord(
        operation="fused_layer" if layer is not None else "embedding",
        layer=layer,
        bytes_sent=10,
        bytes_received=20,
        payload_copies=0,
        serialize_s=2e-4,
        transport_s=2e-4,
        device_s=4e-4,
        deserialize_s=2e-4,
        total_s=1e-3,
        started_s=started_s,
        worker=WorkerDurations(deserialize_s=1e-4, device_s=4e-4, serialize_s=1e-4),
    )


@pytest.fixture
def events() -> list[Event]:
    return trace_events(Trace((record(7.0, None), record(7.003, 0)), 0.005), "fused", 3)


def spans(events: list[Event], name: str, process: int | None = None) -> list[tuple[float, float]]:
    return [
        (event["ts"], event["dur"])
        for event in events
        if event["ph"] == "X" and event["name"] == name and process in (None, event["pid"])
    ]


def test_calls_lie_where_they_were_made(events: list[Event]) -> None:
    assert spans(events, "embedding") == [(0, 1000)]
    assert spans(events, "fused_layer, layer 0") == [(3000, 1000)]


def test_both_processes_have_their_phases(events: list[Event]) -> None:
    assert spans(events, "serialize", 31) == [(0, 100), (3000, 100)]
    assert spans(events, "transport", 31) == [(100, 100), (800, 100), (3100, 100), (3800, 100)]
    assert spans(events, "deserialize", 32) == [(200, 100), (3200, 100)]
    assert spans(events, "device", 32) == [(300, 400), (3300, 400)]
    assert spans(events, "serialize", 32) == [(700, 100), (3700, 100)]
    assert spans(events, "deserialize", 31) == [(900, 100), (3900, 100)]


def test_what_lies_between_calls_is_trusted(events: list[Event]) -> None:
    assert spans(events, "trusted") == [(1000, 2000), (4000, 1000)]


def test_processes_have_names_and_the_document_is_json(events: list[Event]) -> None:
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["fused: trusted side", "fused: worker"]
    document = json.loads(json.dumps(chrome_trace(events)))
    assert document["traceEvents"] == events


def test_a_profile_is_cut_to_the_forward_pass() -> None:
    def seen(name: str, at_us: float, category: str = "cpu_op") -> dict[str, Any]:
        return {"ph": "X", "cat": category, "name": name, "ts": at_us, "dur": 5.0}

    profile = {
        "baseTimeNanoseconds": 2_000_000_000,
        "traceEvents": [
            seen("aten::warm_up", 500.0),
            seen("aten::mm", 1_500.0),
            seen("python frame", 1_600.0, "python_function"),
            seen("aten::afterwards", 9_000.0),
        ],
    }
    events = profiled_events(profile, 2.001, 0.004, 1)
    shown = [event for event in events if event["ph"] == "X"]
    assert [event["name"] for event in shown] == ["aten::mm"]
    assert shown[0]["ts"] == pytest.approx(500, abs=1)
    assert shown[0]["pid"] == 12


def test_no_call_no_span() -> None:
    assert [event["ph"] for event in trace_events(Trace((), 0.0), "fused", 0)] == ["M", "M"]
