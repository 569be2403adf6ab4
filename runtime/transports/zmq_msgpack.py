"""The baseline's transport: ZeroMQ request/reply, every tensor as bytes inside the msgpack message."""

from __future__ import annotations

import atexit
import hmac
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from runtime.errors import EndpointError, InputError, ProtocolError
from runtime.tensors import Payload, TensorSpec
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
from runtime.transports.endpoints import TCP, Endpoint, claimed

# msgpack's bin 32 holds at most this much; with it, a message is never larger than the second figure.
_MAX_TENSOR_BYTES = 2**32 - 1
_MAX_MESSAGE_BYTES = 2**33

_IPC = "ipc"
_PROBE_S = 5.0
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


class _ZmqChannel:
    """What both ends share: bytes in messages, ordinary memory for tensors."""

    def __init__(self, kind: int, endpoint: Endpoint) -> None:
        self.payload_copies = 0
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.IPV6, endpoint.scheme == TCP and "[" in endpoint.address)
        if endpoint.keys is not None:
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, endpoint.keys.secret)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, endpoint.keys.public)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._timeout_ms: int | None = None

    def empty(self, spec: TensorSpec) -> torch.Tensor:
        return torch.empty(spec.shape, dtype=spec.dtype)

    def pack(self, tensor: torch.Tensor) -> memoryview:
        if tensor.nbytes > _MAX_TENSOR_BYTES:
            raise InputError(
                f"prompt: a tensor of {tensor.nbytes:,} bytes does not fit into a msgpack message "
                f"({_MAX_TENSOR_BYTES:,} at most); use a shorter prompt or another stage"
            )
        self.payload_copies += 1  # into the message, when that is packed
        # numpy has no bfloat16: its bytes cross as 16-bit integers.
        array = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        content: Any = array.contiguous().numpy()
        return memoryview(content).cast("B")

    def unpack(self, field: str, spec: TensorSpec, payload: Payload) -> torch.Tensor:
        if not isinstance(payload, bytes):
            raise ProtocolError(field, "must be bytes: this transport shares no memory")
        self.payload_copies += 1  # out of the message
        return torch.frombuffer(payload, dtype=spec.dtype).view(spec.shape)

    def send(self, message: Data) -> None:
        try:
            self._socket.send(message)
        except zmq.ZMQError as error:
            raise PeerGone from error

    def receive(self) -> bytes:
        try:
            ready = dict(self._poller.poll(self._timeout_ms))
            message, *more = self._socket.recv_multipart() if self._socket in ready else (b"",)
        except zmq.ZMQError as error:  # closed by another thread
            raise PeerGone from error
        if self._socket in ready:
            if more:
                raise ProtocolError("message", "must have one part")
            return message
        if ready:
            # ZeroMQ would connect anew and send what is unsent to whoever listens there then.
            self.close()
            raise PeerGone
        raise ReceiveTimeout

    def close(self) -> None:
        self._context.destroy(linger=0)


class ZmqClient(_ZmqChannel, ClientChannel):
    """The trusted side's end."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(zmq.REQ, endpoint)
        # ZeroMQ would wait for the peer to come back; a worker that went is gone.
        events = zmq.EVENT_DISCONNECTED
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


class ZmqServer(_ZmqChannel, ServerChannel):
    """The worker's end."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(zmq.REP, endpoint)
        self._timeout_ms = int(LISTEN_S * 1000)
        self._authenticator: ThreadAuthenticator | None = None
        if endpoint.keys is not None:
            self._socket.setsockopt(zmq.CURVE_SERVER, 1)
            self._authenticator = ThreadAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(
                credentials_provider=_Known(endpoint.keys.peer)
            )
        try:
            # ZeroMQ would remove whatever lies at a path.
            is_path = endpoint.scheme == _IPC
            with claimed(endpoint, socket.SOCK_STREAM) if is_path else nullcontext():
                self._socket.bind(str(endpoint))
        except (zmq.ZMQError, OSError) as error:
            self.close()
            raise EndpointError(
                f"endpoint: cannot listen at {endpoint} ({error.strerror})"
            ) from error
        except EndpointError:
            self.close()
            raise

    def destination(self, index: int, spec: TensorSpec, places: Sequence[Payload]) -> torch.Tensor:
        return self.empty(spec)

    def close(self) -> None:
        if self._authenticator is not None and self._authenticator.is_alive():
            self._authenticator.stop()
        super().close()


class _Known:
    """Admits the one client whose key is known."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        return hmac.compare_digest(key, self._key)


def _connect(endpoint: Endpoint) -> ZmqClient:
    _probe(endpoint)
    return ZmqClient(endpoint)


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


def _serve(endpoint: Endpoint) -> Iterator[ServerChannel]:
    server = ZmqServer(endpoint)
    if endpoint.scheme == _IPC:
        atexit.register(Path(endpoint.address).unlink, missing_ok=True)
    atexit.register(server.close)
    return iter([server])


@contextmanager
def _meet(scheme: str) -> Iterator[Meeting]:
    if scheme == TCP:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        endpoint = Endpoint(TCP, f"127.0.0.1:{port}")
        yield Meeting(str(endpoint), lambda: ZmqClient(endpoint))
        return
    # A folder that only this user can enter.
    folder = tempfile.mkdtemp(prefix="split-llama-")
    try:
        endpoint = Endpoint(_IPC, f"{folder}/worker")
        yield Meeting(str(endpoint), lambda: ZmqClient(endpoint), folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


TRANSPORT = Transport(
    name="zmq-msgpack",
    routes=MappingProxyType({_IPC: "zmq-ipc", TCP: "zmq-tcp"}),
    shares_memory=False,
    connect=_connect,
    serve=_serve,
    meet=_meet,
)
