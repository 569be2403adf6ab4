"""Where the time of a forward pass went: one record per RPC, always on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict, cast

from msgspec import Struct

from runtime.errors import ProtocolError


class WorkerDurations(Struct, frozen=True):
    """Seconds that the worker says it spent on one request. Durations only: its clock is its own."""

    deserialize_s: float
    device_s: float
    serialize_s: float

    @property
    def total_s(self) -> float:
        """Seconds between the request's arrival and the reply's departure."""
        return self.deserialize_s + self.device_s + self.serialize_s

    def checked_total_s(self, round_trip_s: float) -> float:
        """Return ``total_s`` of a request whose round trip took ``round_trip_s``.

        Raises:
            ProtocolError: if these durations cannot be true of it.
        """
        for value in (self.deserialize_s, self.device_s, self.serialize_s):
            if not 0.0 <= value < math.inf:
                raise ProtocolError("durations", f"a worker's duration is {value}")
        total_s = self.total_s
        if total_s > round_trip_s:
            raise ProtocolError(
                "durations",
                f"{total_s:.6f} s claimed within a round trip of {round_trip_s:.6f} s",
            )
        return total_s


class RpcRecord(Struct, frozen=True):
    """One call: both ends' packing is serialize, both ends' unpacking deserialize, in seconds and bytes.

    ``transport_s`` is what remains of the round trip. ``payload_copies`` counts the tensors' copies in
    user space, made by either end for no purpose but to cross. ``started_s`` is this side's clock at the
    call's beginning; ``worker`` is the worker's share of the durations.
    """

    operation: str
    layer: int | None
    bytes_sent: int
    bytes_received: int
    payload_copies: int
    serialize_s: float
    transport_s: float
    device_s: float
    deserialize_s: float
    total_s: float
    started_s: float = 0.0
    worker: WorkerDurations = WorkerDurations(0.0, 0.0, 0.0)


class Totals(TypedDict):
    """Sums over a forward pass, in bytes and seconds."""

    rpc_count: int
    bytes_sent: int
    bytes_received: int
    payload_copies: int
    serialize_s: float
    transport_s: float
    device_s: float
    deserialize_s: float
    trusted_s: float
    total_s: float


def added(before: Totals | None, totals: Totals) -> Totals:
    """Return the sums over both."""
    if before is None:
        return totals
    sums = {name: before[name] + totals[name] for name in totals}  # type: ignore[literal-required]
    return cast("Totals", sums)


@dataclass(frozen=True, slots=True)
class Trace:
    """The calls of one forward pass in order, and the seconds between its beginning and its end."""

    rpcs: tuple[RpcRecord, ...]
    total_s: float
    restarts: int = 0
    """Workers that were started for it in the place of one that had ended; neither they nor the calls that the
    end broke are in the other figures."""

    def totals(self) -> Totals:
        """Sum the records. ``trusted_s`` is the time outside of every call."""
        rpcs = self.rpcs
        return Totals(
            rpc_count=len(rpcs),
            bytes_sent=sum(rpc.bytes_sent for rpc in rpcs),
            bytes_received=sum(rpc.bytes_received for rpc in rpcs),
            payload_copies=sum(rpc.payload_copies for rpc in rpcs),
            serialize_s=sum(rpc.serialize_s for rpc in rpcs),
            transport_s=sum(rpc.transport_s for rpc in rpcs),
            device_s=sum(rpc.device_s for rpc in rpcs),
            deserialize_s=sum(rpc.deserialize_s for rpc in rpcs),
            trusted_s=self.total_s - sum(rpc.total_s for rpc in rpcs),
            total_s=self.total_s,
        )
