"""ZeroMQ sockets with deadlines, keys and conversations; how tensors stand in messages is their transports' own."""

from __future__ import annotations

import atexit
import hmac
import shutil
import socket
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from runtime.errors import EndpointError
from runtime.tensors import Payload, TensorSpec
from runtime.transports.base import (
    LISTEN_S,
    Channel,
    ClientChannel,
    Data,
    Meeting,
    PeerGone,
    Place,
    ReceiveTimeout,
    ServerChannel,
    Transport,
)
from runtime.transports.door import HANDSHAKE_S, Door, inherited_listener, listen_at
from runtime.transports.endpoints import INHERITED, TCP, Endpoint, claimed

Part = bytes | bytearray | memoryview | zmq.Frame
"""Of a message."""

IPC = "ipc"

_MAX_PART_BYTES = 2**33
_PROBE_S = 5.0

# A peer whose host vanished without a word is gone after a minute, asked or in the middle of a message.
_KEEPALIVE = MappingProxyType(
    {
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: 30,
        zmq.TCP_KEEPALIVE_INTVL: 10,
        zmq.TCP_KEEPALIVE_CNT: 3,
        zmq.TCP_MAXRT: 60_000,
    }
)
_HANDSHAKE = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

# Received bytes are read only. No operation writes into its input, so a tensor may look at them;
# torch warns of it once in a process, and this was that once.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the content of a contiguous ``tensor``, without copying it."""
    # numpy has no bfloat16: its bytes cross as 16-bit integers.
    array = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    content: Any = array.contiguous().numpy()
    return memoryview(content).cast("B")


class ZmqChannel(Channel):
    """What both ends share: a socket, ordinary memory for tensors."""

    copied = True
    """Whether ZeroMQ copies what it is given and gives; otherwise both sides look into the same memory."""

    def __init__(self, kind: int, endpoint: Endpoint) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_PART_BYTES)
        if endpoint.scheme != IPC:
            self._socket.setsockopt(zmq.IPV6, "[" in endpoint.address)
            for option, value in _KEEPALIVE.items():
                self._socket.setsockopt(option, value)
        if endpoint.keys is not None:
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, endpoint.keys.secret)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, endpoint.keys.public)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._timeout_ms: int | None = None

    def empty(self, spec: TensorSpec) -> torch.Tensor:
        return torch.empty(spec.shape, dtype=spec.dtype)

    @abstractmethod
    def parts_of(self, message: Data) -> Sequence[Part]:
        """Return the parts that cross for ``message`` and the tensors that were packed for it."""

    @abstractmethod
    def message_of(self, parts: Sequence[Any]) -> bytes | memoryview:
        """Return the message among ``parts``, at least one, that arrived; keep what stands for tensors.

        Raises:
            ProtocolError: if there are too many.
        """

    def send(self, message: Data) -> None:
        self._send(self.parts_of(message))

    def _send(self, parts: Sequence[Part]) -> None:
        try:
            self._socket.send_multipart(parts, copy=self.copied)
        except zmq.ZMQError as error:
            raise PeerGone from error

    def receive(self) -> bytes | memoryview:
        try:
            ready = dict(self._poller.poll(self._timeout_ms))
            parts = self._received() if self._socket in ready else ()
        except zmq.ZMQError as error:  # closed by another thread
            raise PeerGone from error
        if parts:
            return self.message_of(parts)
        if ready and self._socket not in ready:
            # ZeroMQ would connect anew and send what is unsent to whoever listens there then.
            self.close()
            raise PeerGone
        raise ReceiveTimeout

    def _received(self) -> Sequence[Any]:
        """Return the parts of a message that is there; none of one that is of no consequence."""
        return self._socket.recv_multipart(0, self.copied)

    def close(self) -> None:
        self._context.destroy(linger=0)


class ZmqClient(ZmqChannel, ClientChannel):
    """The trusted side's end."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(zmq.REQ, endpoint)
        # ZeroMQ would wait for the peer to come back; a worker that went is gone.
        events = zmq.EVENT_DISCONNECTED
        # A worker that was started here may take long to load before it looks who is at its port.
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, 0)
        if endpoint.keys is not None:
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, endpoint.keys.peer)
            events |= _HANDSHAKE
        self._disconnected = self._socket.get_monitor_socket(events)
        self._poller.register(self._disconnected, zmq.POLLIN)
        try:
            self._socket.connect(str(endpoint))
            if endpoint.keys is not None:
                self._prove(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise EndpointError(
                f"endpoint: cannot connect to {endpoint} ({error.strerror})"
            ) from error

    def _prove(self, endpoint: Endpoint) -> None:
        """Wait until both ends have shown that they own their keys.

        Raises:
            EndpointError: if they have not, within some seconds.
        """
        if self._disconnected.poll(int(_PROBE_S * 1000)):
            event = recv_monitor_message(self._disconnected)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
        self.close()
        raise EndpointError(
            f"endpoint: the keys of the worker at {endpoint} are not those that were given, or it has none"
        )

    def send(self, message: Data) -> None:
        # Its session ended with the connection: who listens there now gets none of it.
        try:
            gone = self._disconnected.poll(0)
        except zmq.ZMQError as error:
            raise PeerGone from error
        if gone:
            self.close()
            raise PeerGone
        super().send(message)

    def watch(self, process: int) -> None:
        """Also notice the end of a process by its pidfd, even before it was ever connected."""
        self._poller.register(process, zmq.POLLIN)

    def set_timeout(self, timeout_s: float) -> None:
        self._timeout_ms = max(1, ceil(timeout_s * 1000))

    def prepare(self, payload_bytes: int) -> None:
        """Nothing to do: memory comes with each message."""

    def reserve(self, specs: Sequence[TensorSpec]) -> Sequence[Place]:
        return ()


class ZmqServer(ZmqChannel, ServerChannel):
    """The worker's end, for all its clients: one of them at a time is kept."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(zmq.ROUTER, endpoint)
        self._timeout_ms = int(LISTEN_S * 1000)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, int(HANDSHAKE_S * 1000))
        self._peer: _Peer | None = None  # the sender of the last message
        self._kept: _Peer | None = None
        self._kept_serial = 0
        self._authenticator: ThreadAuthenticator | None = None
        try:
            listener = _listener(endpoint)
        except EndpointError:
            super().close()
            raise
        self._door = Door(self._socket, listener)
        try:
            if endpoint.keys is not None:
                self._socket.setsockopt(zmq.CURVE_SERVER, 1)
                self._authenticator = ThreadAuthenticator(self._context)
                self._authenticator.start()
                self._authenticator.configure_curve_callback(
                    credentials_provider=_Known(endpoint.keys.peer)
                )
            # ZeroMQ would remove whatever lies at a path.
            is_path = endpoint.scheme == IPC
            with claimed(endpoint, socket.SOCK_STREAM) if is_path else nullcontext():
                self._socket.bind(str(endpoint) if listener is None else _address_of(listener))
        except (zmq.ZMQError, OSError) as error:
            self.close()
            raise EndpointError(
                f"endpoint: cannot listen at {endpoint} ({error.strerror})"
            ) from error
        except EndpointError:
            self.close()
            raise

    def _received(self) -> Sequence[Any]:
        identity = self._socket.recv(copy=False)
        empty, *parts = self._socket.recv_multipart(0, self.copied)
        if len(empty):
            return ()  # no request
        self._peer = _Peer(identity.bytes, int(identity.get(zmq.SRCFD)))
        return parts

    def _send(self, parts: Sequence[Part]) -> None:
        if self._peer is not None:
            super()._send([self._peer.identity, b"", *parts])

    @property
    def taken(self) -> bool:
        kept, peer = self._kept, self._peer
        if kept is None or peer is None or kept.identity == peer.identity:
            return False
        same = (
            kept.descriptor == peer.descriptor
        )  # which is free for another only when that one has gone
        return not same and self._door.serial_of(kept.descriptor) == self._kept_serial

    def keep(self) -> None:
        peer = self._peer
        self._kept_serial = 0 if peer is None else self._door.serial_of(peer.descriptor)
        # Who went before its message was read has no connection, and would be here for ever.
        self._kept = peer if self._kept_serial else None

    def destination(self, index: int, spec: TensorSpec, places: Sequence[Payload]) -> torch.Tensor:
        return self.empty(spec)

    def close(self) -> None:
        self._door.close()
        if self._authenticator is not None and self._authenticator.is_alive():
            self._authenticator.stop()
        super().close()


@dataclass(frozen=True, slots=True)
class _Peer:
    """A client: how ZeroMQ calls it, and its connection's descriptor."""

    identity: bytes
    descriptor: int


class _Known:
    """Admits the one client whose key is known."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        return hmac.compare_digest(key, self._key)


def transport(
    name: str,
    routes: Mapping[str, str],
    client: Callable[[Endpoint], ClientChannel],
    server: Callable[[Endpoint], ServerChannel],
) -> Transport:
    """Return the registry's row of a transport with these two ends; ``routes`` as of ``Transport``."""

    def connect(endpoint: Endpoint) -> ClientChannel:
        _probe(endpoint)
        return client(endpoint)

    def serve(endpoint: Endpoint) -> Iterator[ServerChannel]:
        channel = server(endpoint)
        if endpoint.scheme == IPC:
            atexit.register(Path(endpoint.address).unlink, missing_ok=True)
        atexit.register(channel.close)
        return iter([channel])

    @contextmanager
    def meet(scheme: str) -> Iterator[Meeting]:
        if scheme == TCP:
            # Made here and inherited: nobody else can take the port before the worker does.
            with listen_at("127.0.0.1", 0) as listener:
                at, given = _address_of(listener), listener.fileno()
                endpoint = Endpoint(TCP, at.removeprefix(f"{TCP}://"))
                yield Meeting(f"{INHERITED}://{given}", lambda: client(endpoint), (given,))
            return
        # A folder that only this user can enter.
        folder = tempfile.mkdtemp(prefix="split-llama-")
        try:
            endpoint = Endpoint(IPC, f"{folder}/worker")
            yield Meeting(str(endpoint), lambda: client(endpoint), folder=folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return Transport(
        name=name,
        routes=MappingProxyType(dict(routes)),
        shares_memory=False,
        connect=connect,
        serve=serve,
        meet=meet,
    )


def _listener(endpoint: Endpoint) -> socket.socket | None:
    """Return what listens at a tcp address, or was inherited; None for ZeroMQ's own of a path."""
    if endpoint.scheme == IPC:
        return None
    if endpoint.scheme == INHERITED:
        return inherited_listener(endpoint.address)
    try:
        return listen_at(*endpoint.host_and_port)
    except (OSError, UnicodeError) as error:
        raise EndpointError(
            f"endpoint: cannot listen at {endpoint} ({getattr(error, 'strerror', None) or error})"
        ) from error


def _address_of(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"{TCP}://[{host}]:{port}" if ":" in host else f"{TCP}://{host}:{port}"


def _probe(endpoint: Endpoint) -> None:
    """Find out at once that nobody listens: ZeroMQ itself would try again until the deadline."""
    try:
        if endpoint.scheme == TCP:
            socket.create_connection(endpoint.host_and_port, _PROBE_S).close()
        else:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(endpoint.address)
    except (OSError, UnicodeError) as error:
        raise EndpointError(
            f"endpoint: nobody listens at {endpoint} ({getattr(error, 'strerror', None) or error})"
        ) from error
