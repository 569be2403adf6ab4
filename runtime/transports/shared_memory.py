"""Payload in one arena that both processes map; over a Unix socket go metadata and the arena's descriptor.

The socket keeps message boundaries (SOCK_SEQPACKET), and its end is the notice of the peer's death.
"""

from __future__ import annotations

import array
import atexit
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from runtime.errors import ArenaError, EndpointError, InputError, ProtocolError
from runtime.tensors import Payload, TensorSpec
from runtime.transports.arena import Arena, Slots, aligned
from runtime.transports.base import (
    LISTEN_S,
    ClientChannel,
    Data,
    Meeting,
    PeerGone,
    Place,
    ReceiveTimeout,
    ServerChannel,
    Transport,
)
from runtime.transports.endpoints import INHERITED, Endpoint, inherited, listen

MAX_MESSAGE_BYTES = 64 * 1024

# As plain numbers: the enumeration's operators are Python, and run for each message.
_TRUNCATED = int(socket.MSG_TRUNC)
_RECEIVE_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
_POLL_FLAGS = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_ENDED = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_DESCRIPTOR_SPACE = socket.CMSG_SPACE(array.array("i").itemsize)
_SOON_S = 200e-6
_POLL_S = 100e-6

Ancillary = list[tuple[int, int, bytes]]
Received = tuple[bytes, Ancillary, int, Any]
_Look = Callable[[str, TensorSpec, int], torch.Tensor]

_ARENA = b"arena"  # the one message that is not msgpack: a descriptor travels with it
_ARENA_MAPPED = b"mapped"
_MAX_REASON = 300

_REMEMBERED_PLACES = 1024

_WATCHED = 16  # forward passes after which an arena that none of them needed is given back
_SPARE = 4.0  # times the most that one of them needed, and more, is too large
_KEPT_BYTES = 64 << 20  # no arena of so few bytes is worth replacing

_UNIX = "unix"
_CONNECT_S = 5.0


class _SeqpacketChannel:
    """What both ends share: sending and receiving whole messages."""

    def __init__(self, connection: socket.socket) -> None:
        self.payload_copies = 0
        self._socket = connection
        self._last_wait_s = 0.0
        self._timeout_ms: float | None = None
        self._poller = select.poll()
        self._poller.register(connection, select.POLLIN | select.POLLRDHUP)

    def send(self, message: Data) -> None:
        try:
            self._socket.send(message)
        except OSError as error:
            raise PeerGone from error

    def expect(self, tensors: int) -> None:
        """Nothing to do: places stand in the message."""

    def _receive(self, ancillary_bytes: int = 0) -> tuple[bytes, Ancillary]:
        """Return the next message and what came with it."""
        started = time.perf_counter()
        try:
            received = self._poll(ancillary_bytes, started)
            if received is None:
                # Not the socket's own timeout: it would begin anew after each signal.
                if not self._poller.poll(self._timeout_ms):
                    raise ReceiveTimeout
                received = self._socket.recvmsg(MAX_MESSAGE_BYTES, ancillary_bytes, _RECEIVE_FLAGS)
            message, ancillary, flags, _ = received
        except OSError as error:
            raise PeerGone from error
        self._last_wait_s = time.perf_counter() - started
        if not message or flags & _TRUNCATED:
            for descriptor in _descriptors(ancillary):
                os.close(descriptor)
        if not message:
            # The end of the connection looks like a message of no bytes.
            if any(events & _ENDED for _, events in self._poller.poll(0)):
                raise PeerGone
            raise ProtocolError("message", "is empty")
        if flags & _TRUNCATED:
            raise ProtocolError("message", f"is longer than {MAX_MESSAGE_BYTES} bytes")
        return message, ancillary

    def _poll(self, ancillary_bytes: int, started: float) -> Received | None:
        """Look for a message without sleeping, where the last one came soon.

        Waking a sleeper on another core costs more than such a message's whole round trip. Where answers
        take longer nothing is polled: the cores belong to the side that computes.
        """
        if self._last_wait_s > _SOON_S:
            return None
        while time.perf_counter() - started < _POLL_S:
            try:
                return self._socket.recvmsg(MAX_MESSAGE_BYTES, ancillary_bytes, _POLL_FLAGS)
            except BlockingIOError:
                os.sched_yield()  # the other side may be waiting for this very core
        return None


class SharedMemoryClient(_SeqpacketChannel, ClientChannel):
    """The trusted side's end: it makes the arena and owns every slot of it."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._slots: Slots | None = None
        self._needed: list[int] = []  # bytes, of the last forward passes

    def set_timeout(self, timeout_s: float) -> None:
        self._timeout_ms = timeout_s * 1000
        # For sending: a worker that takes nothing must not hold the caller for ever.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))

    def prepare(self, payload_bytes: int) -> None:
        self._needed.append(payload_bytes)
        size = 0 if self._slots is None else self._slots.arena.size
        if len(self._needed) == _WATCHED:
            most = max(self._needed)
            self._needed.clear()
            if size > max(_KEPT_BYTES, _SPARE * most):
                payload_bytes, size = most, 0  # one long prompt's memory is not kept for ever
        if size >= payload_bytes:
            return
        # Tensors that still look into the old arena keep its memory, and nobody else does.
        self._slots = None
        arena, descriptor = Arena.create(payload_bytes)
        try:
            self._offer(arena, descriptor)
        finally:
            os.close(descriptor)
        self._slots = Slots(arena)

    def _offer(self, arena: Arena, descriptor: int) -> None:
        """Have the worker map it; after that it can neither be mapped again nor lose a page."""
        try:
            socket.send_fds(self._socket, [_ARENA], [descriptor])
        except OSError as error:
            raise PeerGone from error
        answer = self.receive()
        if answer != _ARENA_MAPPED:
            raise ArenaError(
                f"arena: the worker could not map {arena.size:,} bytes: {answer[:_MAX_REASON]!r}"
            )
        arena.close_to_holes(descriptor)

    def empty(self, spec: TensorSpec) -> torch.Tensor:
        return self._place(spec)[0]

    def reserve(self, specs: Sequence[TensorSpec]) -> Sequence[Place]:
        return [self._place(spec) for spec in specs]

    def _place(self, spec: TensorSpec) -> tuple[torch.Tensor, int]:
        if self._slots is None:
            self.prepare(aligned(spec.nbytes))
        if self._slots is None:
            raise ArenaError("arena: there is none")
        return self._slots.reserve(spec)

    def pack(self, tensor: torch.Tensor) -> int:
        offset = None
        if self._slots is not None and tensor.is_contiguous():
            offset = self._slots.offset_of(tensor)
        if offset is None:
            raise InputError(
                "tensor: does not lie in the arena; compute it into memory from empty()"
            )
        return offset

    def unpack(self, field: str, spec: TensorSpec, payload: Payload) -> torch.Tensor:
        raise ProtocolError(field, "results come in the reserved slots only")

    def receive(self) -> bytes:
        return self._receive()[0]

    def close(self) -> None:
        self._socket.close()
        self._slots = None


class SharedMemoryServer(_SeqpacketChannel, ServerChannel):
    """The worker's end: it maps what it is given and looks only where the request points."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._timeout_ms = LISTEN_S * 1000
        self._look: _Look = _look_nowhere

    def receive(self) -> bytes:
        while True:
            message, ancillary = self._receive(_DESCRIPTOR_SPACE)
            if not ancillary:
                return message
            self._map_arena(_descriptors(ancillary))

    def _map_arena(self, descriptors: Sequence[int]) -> None:
        self._look = _look_nowhere
        try:
            arena = Arena.attach(descriptors[0])
            if self.on_new_memory is not None:
                self.on_new_memory(arena.as_bytes())
            # A forward pass looks where the one before it looked.
            self._look = lru_cache(maxsize=_REMEMBERED_PLACES)(arena.tensor)
            answer = _ARENA_MAPPED
        except (ProtocolError, ArenaError, IndexError) as error:
            # Every request is refused until the client brings a better one.
            answer = f"refused: {error}".encode()[:_MAX_REASON]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.send(answer)

    def empty(self, spec: TensorSpec) -> torch.Tensor:
        raise ProtocolError("outputs", "the request names no place for this result")

    def pack(self, tensor: torch.Tensor) -> int:
        raise ProtocolError("outputs", "results lie in the places that the request names")

    def unpack(self, field: str, spec: TensorSpec, payload: Payload) -> torch.Tensor:
        if not isinstance(payload, int):
            raise ProtocolError(field, "must be an offset: this transport carries no bytes")
        return self._look(field, spec, payload)

    def destination(self, index: int, spec: TensorSpec, places: Sequence[Payload]) -> torch.Tensor:
        if index >= len(places):
            return self.empty(spec)
        return self.unpack(f"outputs[{index}]", spec, places[index])

    def close(self) -> None:
        self._socket.close()
        self._look = _look_nowhere


def _look_nowhere(field: str, spec: TensorSpec, offset: int) -> torch.Tensor:
    raise ProtocolError("arena", "none was mapped before this request")


def _descriptors(ancillary: Ancillary) -> Sequence[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found


def _timeval(seconds: float) -> bytes:
    whole, fraction = divmod(seconds, 1)
    return struct.pack("ll", int(whole), max(1, int(fraction * 1e6)))


def _connect(endpoint: Endpoint) -> SharedMemoryClient:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Also bounds the wait for a place among those whose turn has not come.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_CONNECT_S))
        connection.connect(endpoint.address)
    except BlockingIOError as error:
        connection.close()
        raise EndpointError(
            f"endpoint: the worker at {endpoint} serves others, or is stopped; try again later"
        ) from error
    except OSError as error:
        connection.close()
        raise EndpointError(f"endpoint: cannot connect to {endpoint} ({error.strerror})") from error
    return SharedMemoryClient(connection)


def _serve(endpoint: Endpoint) -> Iterator[ServerChannel]:
    if endpoint.scheme == INHERITED:
        return iter([SharedMemoryServer(inherited(endpoint.address))])
    listener = listen(endpoint.address)
    atexit.register(Path(endpoint.address).unlink, missing_ok=True)
    return _accepted(listener)


def _accepted(listener: socket.socket) -> Iterator[ServerChannel]:
    """Take one client after another."""
    listener.settimeout(LISTEN_S)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        yield SharedMemoryServer(connection)


@contextmanager
def _meet(scheme: str) -> Iterator[Meeting]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as unused:
        unused.callback(ours.close)

        def connect() -> SharedMemoryClient:
            theirs.close()
            unused.pop_all()
            return SharedMemoryClient(ours)

        with theirs:
            yield Meeting(f"{INHERITED}://{theirs.fileno()}", connect, (theirs.fileno(),))


TRANSPORT = Transport(
    name="shared-memory",
    routes=MappingProxyType({_UNIX: "shared-memory"}),
    shares_memory=True,
    connect=_connect,
    serve=_serve,
    meet=_meet,
)
