"""Where a worker is reached: which transport speaks over which kind of address."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from runtime.errors import EndpointError
from runtime.transports.base import ClientChannel
from runtime.transports.shared_memory import SharedMemoryClient
from runtime.transports.zmq_msgpack import ZmqClient

_SCHEMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"zmq-msgpack": ("tcp", "ipc"), "shared-memory": ("unix",)}
)
_KNOCK_S = 5.0
_LONGEST_SOCKET_PATH = 107  # sun_path of a Unix socket, less its final zero


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked address such as ``tcp://127.0.0.1:5555``, ``ipc:///run/w`` or ``unix:///run/w``."""

    scheme: str
    address: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


def parse_endpoint(text: str, transport: str) -> Endpoint:
    """Check that ``text`` is an address over which ``transport`` can speak.

    Raises:
        EndpointError: saying which addresses it can use.
    """
    scheme, separator, address = text.partition("://")
    schemes = _SCHEMES[transport]
    if not separator or scheme not in schemes:
        raise EndpointError(
            f"endpoint: {text!r} does not fit the {transport} transport; "
            f"give one of {', '.join(f'{known}://...' for known in schemes)}"
        )
    if scheme == "tcp":
        host, _, port = address.rpartition(":")
        if (
            not host
            or not (port.isascii() and port.isdecimal() and len(port) < 6)
            or not 0 < int(port) < 65536
        ):
            raise EndpointError(
                f"endpoint: {text!r} must be tcp://host:port with a port in 1..65535"
            )
    elif not address:
        raise EndpointError(f"endpoint: {text!r} names no path")
    elif "\0" in address:
        raise EndpointError(f"endpoint: {text!r} holds a zero byte")
    elif len(os.fsencode(address)) > _LONGEST_SOCKET_PATH:
        raise EndpointError(
            f"endpoint: {text!r} is longer than the {_LONGEST_SOCKET_PATH} bytes of a socket's path"
        )
    return Endpoint(scheme, address)


def connect(endpoint: Endpoint) -> ClientChannel:
    """Open the trusted side's end of the road to a worker that listens at ``endpoint``.

    Raises:
        EndpointError: if it can be seen at once that nobody does.
    """
    if endpoint.scheme == "unix":
        return SharedMemoryClient.connect(endpoint.address)
    _knock(endpoint)
    return ZmqClient(str(endpoint))


def _knock(endpoint: Endpoint) -> None:
    """Find out at once that nobody listens: ZeroMQ itself would try again until the deadline."""
    try:
        if endpoint.scheme == "tcp":
            host, _, port = endpoint.address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
        else:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
                knocking.connect(endpoint.address)
    except (OSError, UnicodeError) as error:
        raise EndpointError(
            f"endpoint: nobody listens at {endpoint} ({getattr(error, 'strerror', None) or error})"
        ) from error


def listen(path: str) -> socket.socket:
    """Listen for shared-memory clients at ``path``.

    Raises:
        EndpointError: if the path is in use or cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _remove_stale(path)
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise EndpointError(
            f"endpoint: cannot listen at unix://{path} ({error.strerror})"
        ) from error
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket of a worker that was killed: one at which nobody listens."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knocking:
        try:
            knocking.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            pass
