"""The transports by name. A new one is a file like those, and a row here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from runtime.transports import curve, endpoints, shared_memory, zmq_frames, zmq_msgpack
from runtime.transports.base import ClientChannel, ServerChannel, Transport
from runtime.transports.endpoints import Endpoint

TRANSPORTS: Mapping[str, Transport] = MappingProxyType(
    {
        transport.name: transport
        for transport in (zmq_msgpack.TRANSPORT, shared_memory.TRANSPORT, zmq_frames.TRANSPORT)
    }
)


def parse_endpoint(text: str, transport: str, keys: curve.Keys | None = None) -> Endpoint:
    """Check that ``text`` is an address over which ``transport`` can speak.

    Raises:
        EndpointError: saying which addresses it can use.
    """
    return endpoints.parse(text, transport, tuple(TRANSPORTS[transport].routes), keys)


def connect(text: str, transport: str, keys: str | Path | None = None) -> ClientChannel:
    """Open the trusted side's end of the way to a worker that listens at the address ``text``.

    ``keys`` is a folder of keys, see ``curve``; tcp addresses beyond this host need them.

    Raises:
        EndpointError: if it is none, it can be seen at once that nobody listens there, or the keys do not fit.
    """
    own = None if keys is None else curve.read_keys(keys, curve.CLIENT)
    return TRANSPORTS[transport].connect(parse_endpoint(text, transport, own))


def serve(text: str, transport: str, keys: str | Path | None = None) -> Iterator[ServerChannel]:
    """Listen at the address ``text``, and yield a channel for each client.

    The address may also be what a ``Meeting`` gives to the worker that it is for. ``keys`` as of ``connect``.

    Raises:
        EndpointError: if this transport cannot listen there.
    """
    scheme, _, address = text.partition("://")
    inherited = Endpoint(scheme, address) if scheme == endpoints.INHERITED else None
    own = None if keys is None else curve.read_keys(keys, curve.WORKER)
    return TRANSPORTS[transport].serve(inherited or parse_endpoint(text, transport, own))
