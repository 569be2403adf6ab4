"""One forward pass as a timeline in the Chrome trace format, both processes in it: opens in Perfetto.

The trusted side's spans are its own clock's. Of the worker the trace knows durations only, by design: its
spans are drawn in the middle of the round trip, half of the transport before and half behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from runtime.trace import RpcRecord, Trace

Event = dict[str, Any]

TRUSTED, WORKER = 1, 2


def trace_events(trace: Trace, stage: str, number: int) -> list[Event]:
    """Return the events of ``trace``; its two processes get the ids ``10 number + 1`` and ``10 number + 2``.

    Times are microseconds since the first call began.
    """
    trusted, worker = 10 * number + TRUSTED, 10 * number + WORKER
    events = [_named(trusted, f"{stage}: trusted side"), _named(worker, f"{stage}: worker")]
    if not trace.rpcs:
        return events
    origin = trace.rpcs[0].started_s
    ended = 0.0
    for rpc in trace.rpcs:
        started = rpc.started_s - origin
        if started > ended:
            events.append(_span(trusted, "trusted", ended, started - ended))
        arguments = _arguments(rpc)
        ended = started + rpc.total_s
        events.append(_span(trusted, title(rpc), started, rpc.total_s, arguments))
        for side, phase, begin, seconds in _phases(rpc, started):
            process = trusted if side == TRUSTED else worker
            events.append(_span(process, phase, begin, seconds, arguments))
    if trace.total_s > ended:
        events.append(_span(trusted, "trusted", ended, trace.total_s - ended))
    return events


def profiled_events(
    profile: Mapping[str, Any], began_s: float, seconds: float, number: int
) -> list[Event]:
    """Return the operators that PyTorch's profiler saw on the worker within a forward pass.

    ``began_s`` is the Unix time at which its first call began, ``seconds`` its length. They go into a third
    row of threads, because the profiler's clock is not the trusted side's.
    """
    base_us = float(profile.get("baseTimeNanoseconds", 0)) / 1e3
    process = 10 * number + WORKER
    events = [_named_thread(process, 2, "operators, by PyTorch's profiler")]
    for event in profile["traceEvents"]:
        if event.get("ph") != "X" or event.get("cat") != "cpu_op":
            continue
        at_s = (base_us + float(event["ts"])) / 1e6 - began_s
        if 0 <= at_s <= seconds:
            events.append(
                _span(process, str(event["name"]), at_s, float(event["dur"]) / 1e6, {}, 2)
            )
    return events


def chrome_trace(events: Iterable[Event]) -> Mapping[str, Any]:
    """Return the whole document."""
    return {"displayTimeUnit": "ms", "traceEvents": list(events)}


def title(rpc: RpcRecord) -> str:
    """Name a call."""
    return rpc.operation if rpc.layer is None else f"{rpc.operation}, layer {rpc.layer}"


def _phases(rpc: RpcRecord, started: float) -> Iterator[tuple[int, str, float, float]]:
    """Yield side, phase, beginning and seconds, in the order in which they happen."""
    worker = rpc.worker
    half = max(0.0, rpc.transport_s) / 2
    steps: Sequence[tuple[int, str, float]] = (
        (TRUSTED, "serialize", rpc.serialize_s - worker.serialize_s),
        (TRUSTED, "transport", half),
        (WORKER, "deserialize", worker.deserialize_s),
        (WORKER, "device", worker.device_s),
        (WORKER, "serialize", worker.serialize_s),
        (TRUSTED, "transport", half),
        (TRUSTED, "deserialize", rpc.deserialize_s - worker.deserialize_s),
    )
    for side, phase, seconds in steps:
        yield side, phase, started, max(0.0, seconds)
        started += max(0.0, seconds)


def _arguments(rpc: RpcRecord) -> Mapping[str, int]:
    return {"bytes_sent": rpc.bytes_sent, "bytes_received": rpc.bytes_received}


def _span(
    process: int,
    name: str,
    begin_s: float,
    seconds: float,
    arguments: Mapping[str, Any] | None = None,
    thread: int = 1,
) -> Event:
    return {
        "ph": "X",
        "pid": process,
        "tid": thread,
        "name": name,
        "ts": round(begin_s * 1e6, 3),
        "dur": round(seconds * 1e6, 3),
        "args": dict(arguments or {}),
    }


def _named(process: int, name: str) -> Event:
    return {"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}


def _named_thread(process: int, thread: int, name: str) -> Event:
    return {
        "ph": "M",
        "pid": process,
        "tid": thread,
        "name": "thread_name",
        "args": {"name": name},
    }
