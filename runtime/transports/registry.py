"""The transports by name. A new one is a file like those two, and a row here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from runtime.transports import endpoints, shared_memory, zmq_msgpack
from runtime.transports.base import ClientChannel, ServerChannel, Transport
from runtime.transports.endpoints import Endpoint

TRANSPORTS: Mapping[str, Transport] = MappingProxyType(
    {transport.name: transport for transport in (zmq_msgpack.TRANSPORT, shared_memory.TRANSPORT)}
)


def parse_endpoint(text: str, transport: str) -> Endpoint:
    """Check that ``text`` is an address over which ``transport`` can speak.

    Raises:
        EndpointError: saying which addresses it can use.
    """
    return endpoints.parse(text, transport, tuple(TRANSPORTS[transport].routes))


def connect(text: str, transport: str) -> ClientChannel:
    """Open the trusted side's end of the way to a worker that listens at the address ``text``.

    Raises:
        EndpointError: if it is none, or it can be seen at once that nobody listens there.
    """
    return TRANSPORTS[transport].connect(parse_endpoint(text, transport))


def serve(text: str, transport: str) -> Iterator[ServerChannel]:
    """Listen at the address ``text``, and yield a channel for each client.

    The address may also be what a ``Meeting`` gives to the worker that it is for.

    Raises:
        EndpointError: if this transport cannot listen there.
    """
    scheme, _, address = text.partition("://")
    inherited = Endpoint(scheme, address) if scheme == endpoints.INHERITED else None
    return TRANSPORTS[transport].serve(inherited or parse_endpoint(text, transport))
