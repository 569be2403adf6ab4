"""A machine as the cost model sees it: constants, each from a microbenchmark of one call or one operation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perfsuite.llama.workload import Operation, Side
from runtime.traffic import CallTraffic


@dataclass(frozen=True)
class Curve:
    """Seconds by payload in bytes, measured at ascending ``sizes`` and straight between them."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, size: float) -> float:
        """Return the seconds of ``size`` bytes: the first's below the range, the last slope's above it."""
        if size <= self.sizes[0] or len(self.sizes) == 1:
            return self.seconds[0]
        end = next((i for i, known in enumerate(self.sizes) if known >= size), len(self.sizes) - 1)
        (x0, x1), (y0, y1) = self.sizes[end - 1 : end + 1], self.seconds[end - 1 : end + 1]
        return max(0.0, y0 + (size - x0) * (y1 - y0) / (x1 - x0))


@dataclass(frozen=True)
class Route:
    """What a call costs by phase: by the bytes it sends, by those it receives, and per further tensor.

    The phase "trusted" holds what a call leaves to its caller: memory to release. ``sent`` and
    ``received`` were measured with one tensor each way, the other one being small.
    """

    sent: Mapping[str, Curve]
    received: Mapping[str, Curve]
    per_tensor_s: Mapping[str, float]

    def per_call_s(self, phase: str) -> float:
        """Return the seconds of a call that carries next to nothing."""
        return (self.sent[phase].seconds[0] + self.received[phase].seconds[0]) / 2

    def seconds(self, phase: str, call: CallTraffic) -> float:
        """Return the seconds that ``call`` spends in ``phase``."""
        sent, received = self.sent[phase], self.received[phase]
        return max(
            0.0,
            self.per_call_s(phase)
            + (sent.at(call.bytes_sent) - sent.seconds[0])
            + (received.at(call.bytes_received) - received.seconds[0])
            + self.per_tensor_s[phase] * (call.tensors - 2),
        )


RateKey = tuple[Side, str, str, str]
"""Side, kind, element type and memory of an operation."""


def rate_key(operation: Operation) -> RateKey:
    """Return under what an operation's rates are kept."""
    return operation.side, operation.kind, operation.dtype, operation.memory


@dataclass(frozen=True)
class Rate:
    """Work per second (FLOP/s or bytes/s) of an operation at one shape."""

    shape: tuple[int, ...]
    per_second: float


@dataclass(frozen=True)
class MachineConstants:
    """All that the cost model knows of a machine; ``bandwidth`` is memory's, read and written, in bytes/s."""

    routes: Mapping[str, Route]
    rates: Mapping[RateKey, Sequence[Rate]]
    bandwidth: float

    def seconds(self, operation: Operation) -> float:
        """Return the seconds of one time of ``operation``: its work over the rate at its shape.

        At a shape that was not measured the rate is the geometric mean of those that were, weighted by the
        inverse square of their distance in log(shape).

        Raises:
            KeyError: if its kind was never measured.
        """
        known = self.rates[rate_key(operation)]
        distances = [_distance(rate.shape, operation.shape) for rate in known]
        nearest = min(distances)
        if nearest == 0:
            return operation.work / known[distances.index(0)].per_second
        weights = [distance**-2 for distance in distances]
        logs = sum(w * math.log(r.per_second) for w, r in zip(weights, known, strict=True))
        return operation.work / math.exp(logs / sum(weights))

    def peak_flops(self, dtype: str) -> float:
        """Return the best FLOP/s that any linear layer in ``dtype`` reached."""
        return max(
            rate.per_second
            for (_, kind, of, _), rates in self.rates.items()
            if kind.startswith("linear") and of == dtype
            for rate in rates
        )


def _distance(shape: Sequence[int], other: Sequence[int]) -> float:
    return math.dist(tuple(map(math.log, shape)), tuple(map(math.log, other)))
