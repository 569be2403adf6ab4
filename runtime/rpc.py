"""The trusted side of a session: one call at a time, timed, and each reply checked against what it must be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from runtime.caches import CacheBooks
from runtime.checkpoints import ModelConfig
from runtime.errors import (
    ArenaError,
    HandshakeError,
    ProtocolError,
    WorkerBusy,
    WorkerDied,
    WorkerError,
    WorkerRefused,
    WorkerTimeout,
)
from runtime.messages import (
    ErrorReply,
    Hello,
    Reply,
    decode_reply,
    decode_welcome,
    encode_hello,
    encode_request,
)
from runtime.operations import Call, remembered_output_specs
from runtime.tensors import TensorSpec
from runtime.text import printable
from runtime.trace import RpcRecord, WorkerDurations
from runtime.transports.base import ClientChannel, Data, PeerGone, Place, ReceiveTimeout

Answer = TypeVar("Answer")

_SHOWN = 40  # characters of somebody else's word in an error

_ERRORS: Mapping[str, type[WorkerError] | type[HandshakeError]] = {
    "protocol": WorkerRefused,
    "handshake": HandshakeError,
    "failure": WorkerError,
    "busy": WorkerBusy,
}


class RpcClient:
    """Calls operations on a worker over a channel and keeps a record of each call.

    After an error the session is over: a late reply must never be taken for another call's.
    """

    def __init__(
        self,
        channel: ClientChannel,
        config: ModelConfig,
        dtype: torch.dtype,
    ) -> None:
        self.channel = channel
        self.records: list[RpcRecord] = []
        self.broken = False
        self.died = False
        """Whether what broke it was the end of the worker, or of the way to it."""
        self._output_specs = remembered_output_specs(config, dtype)
        self.caches = CacheBooks(config)
        self._session = 0
        self._sequence = 0

    def handshake(self, own: Hello) -> Mapping[str, Any]:
        """Agree with the worker on protocol and model; return what it says of itself.

        Raises:
            HandshakeError: naming the first thing that differs.
            WorkerBusy: if it serves another client.
            WorkerError, ProtocolError: as ``call``.
        """
        try:
            welcome = self._exchange(encode_hello(own), decode_welcome)[0]
        except WorkerTimeout as error:
            raise WorkerTimeout(
                "worker: no answer to the first message within the deadline; it may be serving another client: "
                "try again later, or launch another worker"
            ) from error
        self.channel.expect(0)
        welcome.hello.check_against(own)
        self._session = welcome.session
        return {
            name: printable(value) if isinstance(value, str) else value
            for name, value in welcome.worker.items()
        }

    def prepare(self, payload_bytes: int) -> None:
        """Make room for a forward pass, as ``ClientChannel.prepare``.

        Raises:
            ArenaError: if the machine has not enough memory.
            WorkerError: if the worker is gone, or an earlier call failed.
            ProtocolError: if it answers nonsense.
        """
        self._check_unbroken()
        try:
            self.channel.prepare(payload_bytes)
        except (PeerGone, ReceiveTimeout) as error:
            raise self._lost(error) from error
        except ArenaError:
            raise  # answered: the session goes on
        except BaseException:
            # Also on Ctrl-C: the answer is still on its way.
            self.broken = True
            raise

    def call(
        self, call: Call, *inputs: torch.Tensor, cache: tuple[int, ...] = ()
    ) -> Sequence[torch.Tensor]:
        """Have the worker compute ``call`` and return its results, which are not to be written to.

        ``cache`` says what the call appends to, or does to it: see ``runtime.caches``.

        Raises:
            WorkerDied, WorkerTimeout: if no reply comes.
            WorkerRefused: if the worker found the request malformed.
            ProtocolError: if the reply is not what this side derives that it must be.
        """
        self._check_unbroken()
        copies_before = self.channel.payload_copies
        started = time.perf_counter()
        input_specs = tuple(map(TensorSpec.of, inputs))
        keys = self.caches.check(call, cache, input_specs)
        specs = self._output_specs(call, input_specs, keys)
        places = self.channel.reserve(specs)
        request = encode_request(
            self._session,
            self._sequence + 1,
            call,
            input_specs,
            [self.channel.pack(tensor) for tensor in inputs],
            [payload for _, payload in places],
            cache,
        )
        self._sequence += 1
        sent = time.perf_counter()
        try:
            reply, arrived = self._exchange(request, decode_reply)
            outputs = self._checked_outputs(reply, specs, places)
            durations = WorkerDurations(reply.deserialize_s, reply.device_s, reply.serialize_s)
            worker_s = durations.checked_total_s(arrived - sent)
            if cache:
                self.caches.note(call, cache, keys)
        except BaseException:
            # Also on Ctrl-C: from here on the sides might not remember the same.
            self.broken = True
            raise
        finished = time.perf_counter()
        self.records.append(
            RpcRecord(
                operation=call.operation,
                layer=call.layer,
                bytes_sent=sum([spec.nbytes for spec in input_specs]),
                bytes_received=sum([spec.nbytes for spec in specs]),
                payload_copies=self.channel.payload_copies - copies_before + reply.payload_copies,
                serialize_s=sent - started + durations.serialize_s,
                transport_s=arrived - sent - worker_s,
                device_s=durations.device_s,
                deserialize_s=finished - arrived + durations.deserialize_s,
                total_s=finished - started,
                started_s=started,
                worker=durations,
            )
        )
        return outputs

    def _check_unbroken(self) -> None:
        if self.broken:
            raise WorkerError("worker: an earlier call failed; launch a new worker")

    def _checked_outputs(
        self, reply: Reply, specs: Sequence[TensorSpec], places: Sequence[Place]
    ) -> Sequence[torch.Tensor]:
        if reply.sequence != self._sequence:
            raise ProtocolError(
                "sequence", f"the reply answers {reply.sequence}, not {self._sequence}"
            )
        expected = 0 if places else len(specs)
        if len(reply.outputs) != expected:
            raise ProtocolError("outputs", f"{expected} expected, got {len(reply.outputs)}")
        if places:
            return [tensor for tensor, _ in places]
        self.channel.expect(expected)
        for index, (output, spec) in enumerate(zip(reply.outputs, specs, strict=True)):
            if output.spec != spec:
                raise ProtocolError(f"outputs[{index}]", f"must be {spec}, got {output.spec}")
        return [
            self.channel.unpack(f"outputs[{index}].payload", output.spec, output.payload)
            for index, output in enumerate(reply.outputs)
        ]

    def _exchange(
        self, request: bytes, decode: Callable[[Data], Answer | ErrorReply]
    ) -> tuple[Answer, float]:
        """Return the decoded answer and the time at which it arrived; an error reply is raised."""
        try:
            self.channel.send(request)
            raw = self.channel.receive()
            arrived = time.perf_counter()
            answer = decode(raw)
        except (PeerGone, ReceiveTimeout) as error:
            raise self._lost(error) from error
        except BaseException:
            # Also on Ctrl-C: the reply is still on its way.
            self.broken = True
            raise
        if isinstance(answer, ErrorReply):
            self.broken = True
            kind = _ERRORS.get(answer.kind)
            if kind is None:
                raise ProtocolError("error.kind", f"{printable(answer.kind, _SHOWN)} is unknown")
            raise kind(f"the worker refused: {answer.field}: {answer.problem}")
        return answer, arrived

    def _lost(self, error: Exception) -> WorkerError:
        self.broken = True
        if isinstance(error, ReceiveTimeout):
            return WorkerTimeout(
                "worker: no answer within the deadline; launch a new worker or allow more time"
            )
        self.died = True
        return WorkerDied("worker: its process or connection ended; launch a new worker")
