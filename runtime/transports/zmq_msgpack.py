"""The baseline's transport: ZeroMQ request/reply, every tensor as bytes inside the msgpack message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from runtime.errors import InputError, ProtocolError
from runtime.tensors import Payload, TensorSpec
from runtime.transports.base import Data
from runtime.transports.endpoints import TCP
from runtime.transports.zmq_sockets import (
    IPC,
    Part,
    ZmqChannel,
    ZmqClient,
    ZmqServer,
    bytes_of,
    transport,
)

# msgpack's bin 32 holds at most this much.
_MAX_TENSOR_BYTES = 2**32 - 1


class _InMessage(ZmqChannel):
    """Tensors stand in the message itself."""

    def pack(self, tensor: torch.Tensor) -> memoryview:
        if tensor.nbytes > _MAX_TENSOR_BYTES:
            raise InputError(
                f"prompt: a tensor of {tensor.nbytes:,} bytes does not fit into a msgpack message "
                f"({_MAX_TENSOR_BYTES:,} at most); use a shorter prompt or another stage"
            )
        self.payload_copies += 1  # into the message, when that is packed
        return bytes_of(tensor)

    def unpack(self, field: str, spec: TensorSpec, payload: Payload) -> torch.Tensor:
        if not isinstance(payload, bytes):
            raise ProtocolError(field, "must be bytes: this transport shares no memory")
        self.payload_copies += 1  # out of the message
        return torch.frombuffer(payload, dtype=spec.dtype).view(spec.shape)

    def expect(self, tensors: int) -> None:
        """Nothing to do: bytes stand in the message."""

    def parts_of(self, message: Data) -> Sequence[Part]:
        return (message,)

    def message_of(self, parts: Sequence[Any]) -> bytes:
        message, *more = parts
        if more:
            raise ProtocolError("message", "must have one part")
        return bytes(message)


class MsgpackClient(ZmqClient, _InMessage):
    """The trusted side's end."""


class MsgpackServer(ZmqServer, _InMessage):
    """The worker's end."""


TRANSPORT = transport("zmq-msgpack", {IPC: "zmq-ipc", TCP: "zmq-tcp"}, MsgpackClient, MsgpackServer)
