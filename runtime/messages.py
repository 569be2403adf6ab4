"""What may cross the boundary. Whatever arrives is hostile until it has been decoded here.

A message is a msgpack map of one of the types below. Decoding checks every type, range, length and count,
refuses fields that it does not know, and builds nothing that the type does not name, so that time and memory
are bounded by the message's size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from runtime.errors import HandshakeError, ProtocolError
from runtime.operations import Call
from runtime.tensors import DTYPE_NAMES, DTYPES, Payload, TensorSpec, remembered_spec
from runtime.text import printable
from runtime.transports.base import Data

PROTOCOL_VERSION = 3

_MAX_TEXT = 4096
_SHOWN = 200  # characters of somebody else's value in an error

Text = Annotated[str, Meta(max_length=_MAX_TEXT)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Dimension = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Shape = Annotated[tuple[Dimension, ...], Meta(min_length=1, max_length=4)]
Modules = Annotated[tuple[str, ...], Meta(max_length=8)]
CacheNumbers = Annotated[tuple[Count, ...], Meta(max_length=4)]
Places = Annotated[Sequence[Count], Meta(max_length=8)]

Scalar = bool | int | float | Text | None
Numbers = Annotated[list[float], Meta(max_length=_MAX_TEXT)]
Nested = Annotated[dict[Text, Scalar | Numbers], Meta(max_length=64)]
Config = Annotated[dict[Text, Scalar | Numbers | Nested], Meta(max_length=64)]


class TensorMessage(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A tensor as a message carries it. ``payload`` is its bytes, or where it lies."""

    dtype: Literal["float32", "bfloat16", "int64"]
    shape: Shape
    payload: Count | bytes

    @classmethod
    def of(cls, spec: TensorSpec, payload: Payload) -> TensorMessage:
        """Describe a tensor; any buffer is sent as bytes."""
        return cls(DTYPE_NAMES[spec.dtype], spec.shape, payload)  # type: ignore[arg-type]

    @property
    def spec(self) -> TensorSpec:
        """Its element type and shape."""
        return remembered_spec(DTYPES[self.dtype], self.shape)


Tensors = Annotated[Sequence[TensorMessage], Meta(max_length=8)]


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """A call and its tensors. ``outputs`` are places for the results, where the transport has such.

    ``cache`` is what the call says of a cache, empty if nothing: see ``runtime.caches``.
    """

    session: Count
    sequence: Count
    operation: Text
    layer: Count | None
    modules: Modules
    transpose_b: bool
    cache: CacheNumbers
    inputs: Tensors
    outputs: Places

    @property
    def call(self) -> Call:
        """What is to be computed."""
        return Call(self.operation, self.layer, self.modules, self.transpose_b)


class Reply(Struct, frozen=True, forbid_unknown_fields=True):
    """The results of a request, in its order, and what they cost the worker.

    ``outputs`` is empty where the request named places: the results lie there. ``serialize_s`` is the last
    field, so that the seconds that packing took can be written into the packed message.
    """

    sequence: Count
    outputs: Tensors
    deserialize_s: float
    device_s: float
    payload_copies: Count
    serialize_s: float


class ErrorReply(Struct, frozen=True, forbid_unknown_fields=True):
    """Why the worker did not compute: the offending field and the problem."""

    kind: Text
    field: Text
    problem: Text

    @classmethod
    def of(cls, kind: str, field: str, problem: str) -> ErrorReply:
        """Cut what is too long to be read."""
        return cls(kind, field[:_MAX_TEXT], problem[:_MAX_TEXT])


class Hello(Struct, frozen=True, forbid_unknown_fields=True):
    """What both sides must agree on before anything is computed."""

    protocol: Count
    config: Config
    digest: Text
    dtype: Text
    device: Text
    granularity: Text

    def check_against(self, own: Hello) -> None:
        """Compare the other side's hello with this side's.

        Raises:
            HandshakeError: naming the first field in which they differ.
        """
        for name in ("config", "digest", "dtype", "device", "granularity"):
            theirs, ours = getattr(self, name), getattr(own, name)
            if theirs == ours:
                continue
            where = name
            if name == "config":
                where, theirs, ours = _first_difference(theirs, ours)
            raise HandshakeError(
                f"{where}: the other side has {_shown(theirs)}, this one {_shown(ours)}"
            )


class Welcome(Struct, frozen=True, forbid_unknown_fields=True):
    """The worker's answer to a hello: its own, the session that it opened, and what it says of itself."""

    hello: Hello
    session: Count
    worker: Annotated[dict[Text, Text | Count], Meta(max_length=16)]


class _Greeting(Struct, frozen=True, forbid_unknown_fields=True):
    hello: Hello


class _Failure(Struct, frozen=True, forbid_unknown_fields=True):
    error: ErrorReply


class _Version(Struct, frozen=True):
    protocol: Count


class _AnyGreeting(Struct, frozen=True):
    """A hello of any version, whose other fields may be others."""

    hello: _Version


Message = TypeVar("Message")

_ENCODER = msgspec.msgpack.Encoder()
_REQUEST = msgspec.msgpack.Decoder(Request)
_REPLY = msgspec.msgpack.Decoder(Reply)
_WELCOME = msgspec.msgpack.Decoder(Welcome)
_GREETING = msgspec.msgpack.Decoder(_Greeting)
_ANY_GREETING = msgspec.msgpack.Decoder(_AnyGreeting)
_FAILURE = msgspec.msgpack.Decoder(_Failure)

# What decoding may raise: text that is not UTF-8 is no error of msgspec's own.
_UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError, MemoryError)


def encode_welcome(welcome: Welcome) -> bytes:
    """Return the bytes of the answer to a hello."""
    return _ENCODER.encode(welcome)


def encode_request(
    session: int,
    sequence: int,
    call: Call,
    specs: Sequence[TensorSpec],
    payloads: Sequence[Payload],
    places: Sequence[Payload] = (),
    cache: tuple[int, ...] = (),
) -> bytes:
    """Return the bytes of the message that asks for ``call`` of these inputs, with what it says of a cache."""
    return _ENCODER.encode(
        Request(
            session,
            sequence,
            call.operation,
            call.layer,
            call.modules,
            call.transpose_b,
            cache,
            list(map(TensorMessage.of, specs, payloads)),
            places,  # type: ignore[arg-type]
        )
    )


def encode_hello(hello: Hello) -> bytes:
    """Return the bytes of the message that opens a session."""
    return _ENCODER.encode(_Greeting(hello))


def encode_error(error: ErrorReply) -> bytes:
    """Return the bytes of the answer to a request that was not computed."""
    return _ENCODER.encode(_Failure(error))


def encode_reply(reply: Reply, seconds: Callable[[], float]) -> bytearray:
    """Pack ``reply`` and write ``seconds()``, asked for when all else is packed, as its ``serialize_s``."""
    packed = bytearray()
    _ENCODER.encode_into(reply, packed)
    # A float's eight bytes, the message's last (msgpack specification, float 64).
    struct.pack_into(">d", packed, len(packed) - 8, seconds())
    return packed


def decode_request(raw: Data) -> Request | Hello:
    """Decode what a worker receives.

    Raises:
        ProtocolError: naming the field that is missing or wrong.
        HandshakeError: for a hello of another version of the protocol.
    """
    try:
        request = _REQUEST.decode(raw)
    except _UNDECODABLE as error:
        greeting = _other(_GREETING, raw, "hello", error)
        _check_version(greeting.hello)
        return greeting.hello
    _check_payloads("inputs", request.inputs)
    return request


def decode_reply(raw: Data) -> Reply | ErrorReply:
    """Decode the answer to a call.

    Raises:
        ProtocolError: naming the field that is missing or wrong.
    """
    try:
        reply = _REPLY.decode(raw)
    except _UNDECODABLE as error:
        return _fit_to_show(_other(_FAILURE, raw, "error", error).error)
    _check_payloads("outputs", reply.outputs)
    return reply


def decode_welcome(raw: Data) -> Welcome | ErrorReply:
    """Decode the answer to a hello.

    Raises:
        ProtocolError: naming the field that is missing or wrong.
        HandshakeError: if the other side speaks another version of the protocol.
    """
    try:
        welcome = _WELCOME.decode(raw)
    except _UNDECODABLE as error:
        _check_any_version(raw)
        return _fit_to_show(_other(_FAILURE, raw, "error", error).error)
    _check_version(welcome.hello)
    return welcome


def _other(
    decoder: msgspec.msgpack.Decoder[Message], raw: Data, name: str, first: BaseException
) -> Message:
    """Decode ``raw`` as the kind of message that has the one field ``name``.

    ``first`` is why it is not of the usual kind: what is wrong with it, unless it has that field.
    """
    try:
        return decoder.decode(raw)
    except _UNDECODABLE as second:
        path, _ = _place(second)
        if path.split(".")[0] != name:
            raise _problem(first) from first
        _check_any_version(raw)
        raise _problem(second) from second


def _check_any_version(raw: Data) -> None:
    """Check the version first: another may well have other fields."""
    try:
        version = _ANY_GREETING.decode(raw).hello
    except _UNDECODABLE:
        return  # said otherwise
    _check_version(version)


def _check_version(hello: Hello | _Version) -> None:
    if hello.protocol != PROTOCOL_VERSION:
        raise HandshakeError(
            f"protocol: the other side speaks version {hello.protocol}, this one {PROTOCOL_VERSION}"
        )


def _fit_to_show(error: ErrorReply) -> ErrorReply:
    return ErrorReply(error.kind, printable(error.field), printable(error.problem))


_WHERE = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")


def _problem(error: BaseException) -> ProtocolError:
    """Say which field of a message does not hold what it must, or that the message is none."""
    if not isinstance(error, msgspec.ValidationError):
        return ProtocolError("message", f"is not msgpack ({type(error).__name__})")
    path, what = _place(error)
    # What is inside a hello or an error is known by its own name.
    path = path.removeprefix("hello.").removeprefix("error.")
    missing = _MISSING.fullmatch(what)
    if missing:
        inside = path and path not in ("hello", "error")
        return ProtocolError(f"{path}.{missing[1]}" if inside else missing[1], "is missing")
    # A dimension is told by its shape, and whatever a map holds by the map.
    path = re.sub(r"(\.shape)\[.*|\[\.\.\.\].*", r"\1", path)
    return ProtocolError(path or "message", printable(what, _SHOWN))


def _place(error: BaseException) -> tuple[str, str]:
    """Return the path to the field that could not be decoded, empty for the message itself, and why."""
    found = _WHERE.fullmatch(str(error)) if isinstance(error, msgspec.ValidationError) else None
    return (found["path"] or "", found["what"]) if found else ("", str(error))


def _check_payloads(name: str, tensors: Sequence[TensorMessage]) -> None:
    for index, tensor in enumerate(tensors):
        payload = tensor.payload
        if type(payload) is bytes and len(payload) != tensor.spec.nbytes:
            raise ProtocolError(
                f"{name}[{index}].payload",
                f"has {len(payload)} bytes, {tensor.spec} needs {tensor.spec.nbytes}",
            )


def _first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, Any, Any]:
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key):
            return f"config.{printable(key, _SHOWN)}", theirs.get(key), ours.get(key)
    return "config", dict(theirs), dict(ours)


def _shown(value: object) -> str:
    plain = type(value) in (bool, int, float, str, type(None))
    return printable(repr(value), _SHOWN) if plain else type(value).__name__
