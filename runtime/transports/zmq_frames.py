"""ZeroMQ with tensors beside the message: each is a frame, sent from where it lies and read where it arrives.

In the message a tensor is the number of its frame. The road to a GPU in another host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import zmq

from runtime.errors import ProtocolError
from runtime.tensors import Payload, TensorSpec
from runtime.transports.base import Data, Place
from runtime.transports.endpoints import TCP, Endpoint
from runtime.transports.zmq_sockets import (
    Part,
    ZmqChannel,
    ZmqClient,
    ZmqServer,
    bytes_of,
    transport,
)

SMALL_BYTES = 16 * 1024
"""Below this a copy costs less than to share; and ZeroMQ would let a short frame begin at any address."""

_MOST_FRAMES = 8  # tensors of a message


class _BesideMessage(ZmqChannel):
    """Tensors follow the message, in its order."""

    copied = False

    def __init__(self, kind: int, endpoint: Endpoint) -> None:
        super().__init__(kind, endpoint)
        self._socket.copy_threshold = SMALL_BYTES
        self._leaving: list[memoryview] = []
        self._arrived: list[zmq.Frame] = []
        self._taken = 0  # of those that arrived

    def pack(self, tensor: torch.Tensor) -> int:
        self._leaving.append(bytes_of(tensor))
        self.payload_copies += tensor.nbytes < SMALL_BYTES
        return len(self._leaving) - 1

    def parts_of(self, message: Data) -> Sequence[Part]:
        parts = (message, *self._leaving)
        self._forget()
        return parts

    def message_of(self, parts: Sequence[zmq.Frame]) -> memoryview:
        self._forget()
        message, *frames = parts
        if len(frames) > _MOST_FRAMES:
            raise ProtocolError("message", f"must have at most {1 + _MOST_FRAMES} parts")
        self._arrived = frames
        return message.buffer

    def expect(self, tensors: int) -> None:
        if len(self._arrived) != tensors:
            raise ProtocolError(
                "message", f"must have {1 + tensors} parts, got {1 + len(self._arrived)}"
            )

    def unpack(self, field: str, spec: TensorSpec, payload: Payload) -> torch.Tensor:
        if type(payload) is not int or payload != self._taken or payload >= len(self._arrived):
            raise ProtocolError(field, f"must be {self._taken}, the number of a frame that came")
        frame = self._arrived[payload]
        if len(frame) != spec.nbytes:
            raise ProtocolError(field, f"has {len(frame)} bytes, {spec} needs {spec.nbytes}")
        self._taken += 1
        content: bytes | memoryview = frame.buffer
        if spec.nbytes < SMALL_BYTES:
            self.payload_copies += 1
            content = bytes(content)
        return torch.frombuffer(content, dtype=spec.dtype).view(spec.shape)

    def _forget(self) -> None:
        """Let go of the tensors of earlier messages."""
        self._leaving, self._arrived, self._taken = [], [], 0


class FramesClient(ZmqClient, _BesideMessage):
    """The trusted side's end."""

    def reserve(self, specs: Sequence[TensorSpec]) -> Sequence[Place]:
        self._forget()  # a call that was interrupted has left them
        return super().reserve(specs)


class FramesServer(ZmqServer, _BesideMessage):
    """The worker's end."""


TRANSPORT = transport("zmq-frames", {TCP: "frames-tcp"}, FramesClient, FramesServer)
