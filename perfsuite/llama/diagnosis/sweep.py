"""Calls that carry from 1 KB to 134 MB over each route: the transport's diagnosis, and the model's constants.

A call is measured in two ways. *Hot*, as a transport is usually diagnosed, one call after the other: code and
payload are still in the caches. *Cold*, as in a forward pass: since the last call both sides have walked through
as much memory, and the worker has multiplied as much, as they do between two calls of a forward pass. A call
of the same size then costs up to several times as much.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import torch

from perfsuite.llama.bursts import Between
from perfsuite.llama.diagnosis.null_worker import CONFIG, MOST_ROWS, ROW_BYTES, Sweep
from perfsuite.llama.machine_constants import Curve, Route
from runtime.operations import Call
from runtime.rpc import RpcClient
from runtime.tensors import TensorSpec

ROWS = (1, 4, 16, 64, 256, 1024, 2560, 5120, 10_240, 20_480, 36_864, 73_728, MOST_ROWS)
"""Payloads in units of ROW_BYTES: closest where a forward's tensors are, and on both sides of malloc's 32 MiB."""
CALL_PHASES = ("serialize", "transport", "deserialize", "trusted")

ARENA_BYTES = 3 * MOST_ROWS * ROW_BYTES // 2
_FEW_ROWS = 16_384  # up to here a sweep makes each call several times
_REPEATS = 3

Kind = Literal["sent", "received", "one tensor", "three tensors"]

_CALLS: Mapping[Kind, Call] = {
    "sent": Call("lm_head"),
    "received": Call("embedding"),
    "one tensor": Call("batch_linear", 0, ("o_proj",)),
    "three tensors": Call("batch_linear", 0, ("q_proj", "k_proj", "v_proj")),
}


@dataclass(frozen=True)
class Key:
    """What was measured: payload one way, or small results by number; ``cold`` is after a walk through memory."""

    kind: Kind
    rows: int
    cold: bool


@dataclass
class Samples:
    """Seconds by phase of each call made over one route."""

    calls: dict[Key, list[Mapping[str, float]]] = field(default_factory=dict)

    def add(self, key: Key, seconds: Mapping[str, float]) -> None:
        """Keep one call's seconds by phase."""
        self.calls.setdefault(key, []).append(seconds)

    def curve(self, kind: Kind, cold: bool, phases: Sequence[str]) -> Curve:
        """Return the median seconds of ``phases`` together, by payload."""
        keys = sorted(
            (key for key in self.calls if key.kind == kind and key.cold == cold),
            key=lambda key: key.rows,
        )
        return Curve(
            tuple(key.rows * ROW_BYTES for key in keys),
            tuple(self._median(key, phases) for key in keys),
        )

    def round_trips(self, kind: Kind, cold: bool) -> tuple[list[int], list[float]]:
        """Return payload in bytes and seconds of each round trip."""
        chosen = [
            (key.rows * ROW_BYTES, sum(seconds[phase] for phase in CALL_PHASES[:3]))
            for key, calls in self.calls.items()
            if key.kind == kind and key.cold == cold
            for seconds in calls
        ]
        return [size for size, _ in chosen], [seconds for _, seconds in chosen]

    def route(self) -> Route:
        """Return the model's constants: from the calls with cold caches."""
        one, three = Key("one tensor", 1, True), Key("three tensors", 1, True)
        return Route(
            sent={phase: self.curve("sent", True, [phase]) for phase in CALL_PHASES},
            received={phase: self.curve("received", True, [phase]) for phase in CALL_PHASES},
            per_tensor_s={
                phase: max(0.0, self._median(three, [phase]) - self._median(one, [phase])) / 2
                for phase in CALL_PHASES
            },
        )

    def _median(self, key: Key, phases: Sequence[str]) -> float:
        return median(sum(seconds[phase] for phase in phases) for seconds in self.calls[key])


def sweep_keys(cold: bool, rows: Sequence[int] = ROWS) -> Iterator[Key]:
    """Yield what one sweep measures, in order: small payloads more than once."""
    for count in rows:
        for kind in ("sent", "received"):
            for _ in range(1 if count > _FEW_ROWS else _REPEATS):
                yield Key(kind, count, cold)
    for _ in range(_REPEATS):
        yield Key("one tensor", 1, cold)
        yield Key("three tensors", 1, cold)


class Caller:
    """Makes calls over an open route and times them."""

    def __init__(self, client: RpcClient, between: Between) -> None:
        client.prepare(ARENA_BYTES)
        self._client = client
        self._sweep = Sweep(between.trusted_bytes)

    def measure(self, key: Key) -> Mapping[str, float]:
        """Make one call and return its seconds by phase; "trusted" is what it leaves to its caller."""
        x = self._payload(key)
        if key.cold:
            self._sweep()
        # Filled, as by the operation before a call; its first value tells the worker whether to be busy.
        x.fill_(1 if key.cold else 0)
        return _timed(self._client, _CALLS[key.kind], x)

    def _payload(self, key: Key) -> torch.Tensor:
        spec = TensorSpec(torch.float32, (1, key.rows, CONFIG.hidden_size))
        if key.kind == "sent":
            spec = TensorSpec(torch.float32, (key.rows, CONFIG.hidden_size))
        elif key.kind == "received":
            spec = TensorSpec(torch.int64, (1, key.rows))
        return self._client.channel.empty(spec)


def _timed(client: RpcClient, call: Call, x: torch.Tensor) -> Mapping[str, float]:
    """Make ``call``, read its results and release them; return the seconds by phase, but for the device's."""
    started = time.perf_counter()
    outputs = list(client.call(call, x))
    returned = time.perf_counter()
    for output in outputs:
        output.sum()
    del output
    read = time.perf_counter()
    outputs.clear()
    released = time.perf_counter()
    record = client.records.pop()
    return {
        "serialize": record.serialize_s,
        "transport": record.transport_s,
        "deserialize": record.deserialize_s,
        "trusted": returned - started - record.total_s + released - read,
    }
