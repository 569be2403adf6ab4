"""The worker's side of a session: every request checked, computed on the device, answered."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from runtime.caches import CacheBooks
from runtime.checkpoints import ModelConfig
from runtime.devices.base import Device
from runtime.errors import HandshakeError, ProtocolError, WorkerBusy
from runtime.messages import (
    ErrorReply,
    Hello,
    Reply,
    Request,
    TensorMessage,
    Welcome,
    decode_request,
    encode_error,
    encode_reply,
    encode_welcome,
)
from runtime.operations import check_granularity, remembered_output_specs
from runtime.transports.base import Data, PeerGone, ReceiveTimeout, ServerChannel

_log = logging.getLogger(__name__)


class Service:
    """Serves one client after another. A malformed request is refused by name, and the service lives on."""

    def __init__(
        self,
        device: Device,
        config: ModelConfig,
        hello: Hello,
        about: Mapping[str, Any],
    ) -> None:
        self._device = device
        self._output_specs = remembered_output_specs(config, device.dtype)
        self._caches = CacheBooks(config)
        self._hello = hello
        self._about = about
        self._session: int | None = None
        self._sequence = 0

    def serve(self, channel: ServerChannel) -> None:
        """Answer requests until the channel ends."""
        self._session = None
        channel.on_new_memory = self._device.register
        try:
            while True:
                try:
                    raw = channel.receive()
                    answer = self._answer(channel, raw)
                except PeerGone:
                    raise
                except ReceiveTimeout:
                    continue
                # Whatever a message provokes, the next client finds the worker alive.
                except Exception as error:  # noqa: BLE001
                    answer = encode_error(_error_reply(error))
                channel.send(answer)
        except PeerGone:
            self._end_session()

    def _end_session(self) -> None:
        self._session = None
        self._caches.clear()
        self._device.close_caches()

    def _answer(self, channel: ServerChannel, raw: Data) -> Data:
        started = time.perf_counter()
        if channel.taken:
            raise WorkerBusy("serves another client")
        request = decode_request(raw)
        if isinstance(request, Hello):
            channel.expect(0)
            welcome = self._greet(request)
            channel.keep()
            return welcome
        self._check_turn(request)
        channel.expect(len(request.inputs))
        call = request.call
        check_granularity(call, self._hello.granularity)
        input_specs = tuple(tensor.spec for tensor in request.inputs)
        keys = self._caches.check(call, request.cache, input_specs)
        specs = self._output_specs(call, input_specs, keys)
        copies_before = channel.payload_copies
        inputs = [
            channel.unpack(f"inputs[{index}].payload", tensor.spec, tensor.payload)
            for index, tensor in enumerate(request.inputs)
        ]
        outputs = [
            channel.destination(index, spec, request.outputs) for index, spec in enumerate(specs)
        ]
        if len(request.outputs) not in (0, len(specs)):
            raise ProtocolError("outputs", f"must name {len(specs)} places")
        _check_apart(inputs, outputs)
        unpacked = time.perf_counter()
        self._device.run(call, inputs, outputs, request.cache)
        self._caches.note(call, request.cache, keys)
        computed = time.perf_counter()
        reply = Reply(
            sequence=request.sequence,
            outputs=[]
            if request.outputs
            else [
                TensorMessage.of(spec, channel.pack(tensor))
                for spec, tensor in zip(specs, outputs, strict=True)
            ],
            deserialize_s=unpacked - started,
            device_s=computed - unpacked,
            payload_copies=channel.payload_copies - copies_before,
            serialize_s=0.0,
        )
        return encode_reply(reply, lambda: time.perf_counter() - computed)

    def _greet(self, hello: Hello) -> bytes:
        self._end_session()  # not by a hello that is none: that may be somebody else's
        hello.check_against(self._hello)
        self._session = secrets.randbits(62)
        self._sequence = 0
        return encode_welcome(Welcome(self._hello, self._session, dict(self._about)))

    def _check_turn(self, request: Request) -> None:
        if self._session is None or request.session != self._session:
            raise ProtocolError("session", "is not the one that the last handshake opened")
        if request.sequence != self._sequence + 1:
            raise ProtocolError("sequence", f"must be {self._sequence + 1}, got {request.sequence}")
        self._sequence = request.sequence


def _check_apart(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
    """Refuse results that would be written over an input or over each other."""
    taken = [(tensor.data_ptr(), tensor.nbytes) for tensor in inputs]
    for index, output in enumerate(outputs):
        begin, size = output.data_ptr(), output.nbytes
        for other, length in taken:
            if begin < other + length and other < begin + size:
                raise ProtocolError(f"outputs[{index}]", "overlaps an input or another output")
        taken.append((begin, size))


def _error_reply(error: Exception) -> ErrorReply:
    if isinstance(error, ProtocolError):
        return ErrorReply.of("protocol", error.field, error.problem)
    if isinstance(error, HandshakeError):
        return ErrorReply.of("handshake", "hello", str(error))
    if isinstance(error, WorkerBusy):
        return ErrorReply.of("busy", "worker", str(error))
    _log.exception("a request failed", exc_info=error)
    return ErrorReply.of("failure", type(error).__name__, str(error))
