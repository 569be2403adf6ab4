"""Addresses of workers, and sockets at paths."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import EndpointError
from runtime.transports.curve import Keys

TCP = "tcp"
IPC = "ipc"
INHERITED = "fd"
"""Scheme of the address that a worker has from the process that started it: fd://NUMBER of a descriptor."""

LONGEST_SOCKET_PATH = 107  # sun_path of a Unix socket, less its final zero


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked address such as ``tcp://127.0.0.1:5555``, ``ipc:///run/w`` or ``unix:///run/w``."""

    scheme: str
    address: str
    keys: Keys | None = None
    """Of a tcp address: without them nothing is encrypted, and anybody may connect."""

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The two parts of a tcp address."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


def parse(text: str, transport: str, schemes: Sequence[str], keys: Keys | None = None) -> Endpoint:
    """Check that ``text`` is an address of one of ``schemes``, over which ``transport`` can speak.

    Raises:
        EndpointError: saying which addresses it can use; for a tcp address beyond this host without ``keys``.
    """
    scheme, separator, address = text.partition("://")
    if not separator or scheme not in schemes:
        raise EndpointError(
            f"endpoint: {text!r} does not fit the {transport} transport; "
            f"give one of {', '.join(f'{known}://...' for known in schemes)}"
        )
    if scheme == TCP:
        host, _, port = address.rpartition(":")
        if (
            not host
            or not (port.isascii() and port.isdecimal() and len(port) < 6)
            or not 0 < int(port) < 65536
        ):
            raise EndpointError(
                f"endpoint: {text!r} must be tcp://host:port with a port in 1..65535"
            )
        if keys is None and not _is_loopback(host.strip("[]")):
            raise EndpointError(
                f"endpoint: {text!r} can be reached from other hosts and needs keys: "
                "python -m runtime.worker --generate-keys FOLDER, then --keys FOLDER for the worker and keys= "
                "of launch; or use 127.0.0.1"
            )
    elif keys is not None:
        raise EndpointError(f"keys: {text!r} needs none, it is this host's; they are for tcp")
    elif not address:
        raise EndpointError(f"endpoint: {text!r} names no path")
    elif "\0" in address:
        raise EndpointError(f"endpoint: {text!r} holds a zero byte")
    elif len(os.fsencode(address)) > LONGEST_SOCKET_PATH:
        raise EndpointError(
            f"endpoint: {text!r} is longer than the {LONGEST_SOCKET_PATH} bytes of a socket's path"
        )
    return Endpoint(scheme, address, keys)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def inherited(text: str) -> socket.socket:
    """Return the socket that this process inherited as descriptor number ``text``.

    Raises:
        EndpointError: if it is none.
    """
    try:
        return socket.socket(fileno=int(text))
    except (ValueError, OSError, OverflowError) as error:
        raise EndpointError(f"endpoint: fd://{text} is no socket that was inherited") from error


def listen(path: str) -> socket.socket:
    """Listen at ``path`` for connections that keep the boundaries of messages.

    Raises:
        EndpointError: if the path is in use or cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with claimed(Endpoint("unix", path), socket.SOCK_SEQPACKET):
            listener.bind(path)
            listener.listen(1)
    except OSError as error:
        listener.close()
        raise EndpointError(
            f"endpoint: cannot listen at unix://{path} ({error.strerror})"
        ) from error
    except EndpointError:
        listener.close()
        raise
    return listener


@contextmanager
def claimed(endpoint: Endpoint, kind: socket.SocketKind) -> Iterator[None]:
    """Hold the place of ``endpoint`` while a socket of ``kind`` is made there, which is this user's alone.

    One process at a time does so in a folder. A socket at which nobody listens any more is removed first;
    whatever else is there stays.

    Raises:
        EndpointError: if somebody listens there, or it is no socket.
        OSError: if there is no such folder.
    """
    path = endpoint.address
    folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _remove_stale(endpoint, kind)
        mask = os.umask(0o177)
        try:
            yield
        finally:
            os.umask(mask)
    finally:
        os.close(folder)


def _remove_stale(endpoint: Endpoint, kind: socket.SocketKind) -> None:
    """Remove the socket of a worker that was killed: one at which nobody listens."""
    path = Path(endpoint.address)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise EndpointError(f"endpoint: cannot listen at {endpoint} (a file that is no socket)")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)  # a full queue is somebody's, too
        try:
            probe.connect(endpoint.address)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise EndpointError(f"endpoint: cannot listen at {endpoint} (Address already in use)")
