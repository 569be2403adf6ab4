"""One end of a transport between the two processes: the small interface that every transport fills."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from runtime.tensors import Payload, TensorSpec
from runtime.transports.endpoints import Endpoint

Data = bytes | bytearray | memoryview
"""An encoded message."""

Place = tuple[torch.Tensor, Payload]
"""Memory for a result, and what stands for it in a request."""

LISTEN_S = 0.5
"""Longest wait of a server at a time: a signal that comes just before a wait in C is heard only after it."""


class PeerGone(Exception):
    """The other end closed its side, or its process ended."""


class ReceiveTimeout(Exception):
    """Nothing arrived in time."""


class Channel(ABC):
    """Carries messages, and says what stands for a tensor in them.

    Code that produces a tensor which will cross asks for its memory (``empty``) and computes into it,
    so that a transport which can share memory need not copy anything.
    """

    payload_copies: int = 0
    """Copies of tensors made in user space for no purpose but to cross, since the channel was opened."""

    @abstractmethod
    def empty(self, spec: TensorSpec) -> torch.Tensor:
        """Return uninitialized memory for a tensor that will cross."""

    @abstractmethod
    def pack(self, tensor: torch.Tensor) -> Payload:
        """Return what stands for ``tensor``'s content in a message."""

    @abstractmethod
    def unpack(self, field: str, spec: TensorSpec, payload: Payload) -> torch.Tensor:
        """Return the tensor that ``payload`` stands for.

        Raises:
            ProtocolError: naming ``field``, if it stands for none.
        """

    @abstractmethod
    def expect(self, tensors: int) -> None:
        """Check that the last message brought along what stands for so many tensors, and nothing else.

        Raises:
            ProtocolError: if it did not; never where everything stands in the message.
        """

    @abstractmethod
    def send(self, message: Data) -> None:
        """Send one message.

        Raises:
            PeerGone: if nobody can receive it.
        """

    @abstractmethod
    def receive(self) -> bytes | memoryview:
        """Return the next message.

        Raises:
            PeerGone: if none can arrive any more.
            ReceiveTimeout: after the channel's deadline.
            ProtocolError: if the message is too large for the transport.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything. Closing twice is allowed."""


class ClientChannel(Channel):
    """The trusted side's end: it alone decides where anything lies."""

    @abstractmethod
    def set_timeout(self, timeout_s: float) -> None:
        """Let ``receive`` wait this long from now on, in seconds."""

    @abstractmethod
    def prepare(self, payload_bytes: int) -> None:
        """Make room for a forward pass whose live tensors need at most ``payload_bytes``.

        Raises:
            ArenaError: if the machine has not enough memory.
        """

    def watch(self, process: int) -> None:
        """Also notice the end of a process, by its pidfd; needed only where the way itself does not tell."""

    @abstractmethod
    def reserve(self, specs: Sequence[TensorSpec]) -> Sequence[Place]:
        """Return places for results, to be named in the request; none where results bring their own."""


class ServerChannel(Channel):
    """The worker's end. ``receive`` waits no longer than ``LISTEN_S``."""

    @abstractmethod
    def destination(self, index: int, spec: TensorSpec, places: Sequence[Payload]) -> torch.Tensor:
        """Return memory for the result ``index`` of a request that named ``places`` for its results.

        Raises:
            ProtocolError: if the place cannot hold it.
        """

    @property
    def taken(self) -> bool:
        """Whether the last message's sender is not the client that is kept; never where each has a channel."""
        return False

    def keep(self) -> None:
        """Serve the sender of the last message alone, until its connection ends."""

    on_new_memory: Callable[[torch.Tensor], None] | None = None
    """Called with all of the shared memory, as bytes, whenever the client brings some."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """How a worker that is about to be started will be reached."""

    endpoint: str
    """Of the worker's command line."""

    connect: Callable[[], ClientChannel]
    """Opens the trusted side's end, once the worker's process exists."""

    descriptors: Sequence[int] = ()
    """What the worker inherits."""

    folder: str = ""
    """Exists until the two have met."""


@dataclass(frozen=True, slots=True)
class Transport:
    """One way to carry tensors between two processes: a row of the registry.

    ``routes`` names the way by the scheme of its addresses; the first is the usual one on one host.
    ``meet`` prepares, for a scheme, what a worker and the process that starts it need to find each other;
    its context ends when they have, and takes away what nobody needs then. ``serve`` listens at once,
    and yields a channel for each client.
    """

    name: str
    routes: Mapping[str, str]
    shares_memory: bool
    connect: Callable[[Endpoint], ClientChannel]
    serve: Callable[[Endpoint], Iterator[ServerChannel]]
    meet: Callable[[str], AbstractContextManager[Meeting]]

    @property
    def scheme(self) -> str:
        """Of the usual addresses on one host."""
        return next(iter(self.routes))
