"""What may cross the boundary, and every check on it. Whatever arrives is hostile until it has passed here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from runtime.errors import HandshakeError, ProtocolError
from runtime.operations import Call
from runtime.tensors import DTYPE_NAMES, DTYPES, Payload, TensorSpec
from runtime.trace import WorkerDurations

PROTOCOL_VERSION = 2

_MAX_DIMENSIONS = 4
_MAX_INTEGER = 2**63 - 1
_MAX_ENTRIES = 8
_MAX_TEXT = 4096


@dataclass(frozen=True, slots=True)
class TensorMessage:
    """A tensor as a message carries it."""

    spec: TensorSpec
    payload: Payload

    def pack(self) -> dict[str, Any]:
        """Return the msgpack form."""
        return {
            "dtype": DTYPE_NAMES[self.spec.dtype],
            "shape": self.spec.shape,
            "payload": self.payload,
        }


@dataclass(frozen=True, slots=True)
class Request:
    """A call and its tensors. ``outputs`` are places for the results, where the transport has such."""

    session: int
    sequence: int
    call: Call
    inputs: Sequence[TensorMessage]
    outputs: Sequence[Payload] = ()

    def encode(self) -> bytes:
        """Return the message's bytes."""
        call = self.call
        return packb(
            {
                "session": self.session,
                "sequence": self.sequence,
                "operation": call.operation,
                "layer": call.layer,
                "modules": call.modules,
                "transpose_b": call.transpose_b,
                "inputs": [tensor.pack() for tensor in self.inputs],
                "outputs": self.outputs,
            }
        )

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Request:
        """Check a decoded message.

        Raises:
            ProtocolError: naming the field that is missing or wrong.
        """
        session, sequence, operation, layer, modules, transpose_b, inputs, outputs = _checked(
            fields, _REQUEST_FIELDS
        )
        for index, module in enumerate(modules):
            if type(module) is not str:
                raise ProtocolError(f"modules[{index}]", f"must be text, got {_kind(module)}")
        for index, place in enumerate(outputs):
            _check_offset(f"outputs[{index}]", place)
        return cls(
            session,
            sequence,
            Call(operation, layer, tuple(modules), transpose_b),
            _tensors("inputs", inputs),
            outputs,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """The results of a request, in its order, and what they cost the worker.

    ``outputs`` is empty where the request named places: the results lie there.
    """

    sequence: int
    outputs: Sequence[TensorMessage]
    durations: WorkerDurations
    payload_copies: int

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Reply:
        """Check a decoded message.

        Raises:
            ProtocolError: naming the field that is missing or wrong.
        """
        sequence, outputs, deserialize_s, device_s, payload_copies, serialize_s = _checked(
            fields, _REPLY_FIELDS
        )
        return cls(
            sequence,
            _tensors("outputs", outputs),
            WorkerDurations(deserialize_s, device_s, serialize_s),
            payload_copies,
        )


def encode_reply(
    sequence: int,
    outputs: Sequence[TensorMessage],
    deserialize_s: float,
    device_s: float,
    payload_copies: int,
    serialize_started: float,
) -> memoryview:
    """Pack a reply whose last field is the time that packing it took.

    ``serialize_started`` is the ``time.perf_counter()`` at which serializing began.
    """
    fields = {
        "sequence": sequence,
        "outputs": [tensor.pack() for tensor in outputs],
        "deserialize_s": deserialize_s,
        "device_s": device_s,
        "payload_copies": payload_copies,
    }
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(len(fields) + 1)
    for name, value in fields.items():
        packer.pack(name)
        packer.pack(value)
    packer.pack("serialize_s")
    packer.pack(time.perf_counter() - serialize_started)
    return memoryview(packer.getbuffer())


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the worker did not compute: the offending field and the problem."""

    kind: str
    field: str
    problem: str

    def encode(self) -> bytes:
        """Return the message's bytes."""
        return packb(
            {
                "error": {
                    "kind": self.kind,
                    "field": self.field[:_MAX_TEXT],
                    "problem": self.problem[:_MAX_TEXT],
                }
            }
        )

    @classmethod
    def find(cls, fields: Mapping[str, Any]) -> Refusal | None:
        """Return the refusal that a reply holds, None where it holds results.

        Raises:
            ProtocolError: if the refusal itself is malformed.
        """
        if "error" not in fields:
            return None
        error = fields["error"]
        if type(error) is not dict:
            raise ProtocolError("error", f"must be a map, got {_kind(error)}")
        return cls(*_checked(error, _REFUSAL_FIELDS))


@dataclass(frozen=True, slots=True)
class Hello:
    """What both sides must agree on before anything is computed."""

    protocol: int
    config: Mapping[str, Any]
    digest: str
    dtype: str
    device: str
    granularity: str

    def pack(self) -> dict[str, Any]:
        """Return the msgpack form."""
        return {
            "protocol": self.protocol,
            "config": dict(self.config),
            "digest": self.digest,
            "dtype": self.dtype,
            "device": self.device,
            "granularity": self.granularity,
        }

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Hello:
        """Check a decoded message.

        Raises:
            ProtocolError: naming the field that is missing or wrong.
        """
        # Before any other field: another version may well have other fields.
        (protocol,) = _checked(fields, {"protocol": (int,)})
        if protocol != PROTOCOL_VERSION:
            raise HandshakeError(
                f"protocol: the other side speaks version {protocol}, this one {PROTOCOL_VERSION}"
            )
        return cls(*_checked(fields, _HELLO_FIELDS))

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


def _first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, Any, Any]:
    for key in sorted({*theirs, *ours}, key=str):
        if theirs.get(key) != ours.get(key):
            return f"config.{key}"[:200], theirs.get(key), ours.get(key)
    return "config", dict(theirs), dict(ours)


def packb(fields: Mapping[str, Any]) -> bytes:
    """Encode a message."""
    return bytes(msgpack.packb(fields))


def unpackb(raw: bytes | memoryview) -> Mapping[str, Any]:
    """Decode a message into a mapping with text keys.

    Raises:
        ProtocolError: if ``raw`` is not one.
    """
    try:
        # Lengths are bounded by the buffer itself; keys other than text are refused by the library.
        fields = msgpack.unpackb(raw, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError("message", f"is not msgpack ({type(error).__name__})") from error
    if type(fields) is not dict:
        raise ProtocolError("message", f"must be a map, got {_kind(fields)}")
    return fields


def _shown(value: object) -> str:
    return f"{value!r:.200}" if type(value) in (bool, int, float, str, type(None)) else _kind(value)


def _kind(value: object) -> str:
    return type(value).__name__


_Kinds = tuple[type, ...]

_REQUEST_FIELDS: Mapping[str, _Kinds] = {
    "session": (int,),
    "sequence": (int,),
    "operation": (str,),
    "layer": (int, type(None)),
    "modules": (list,),
    "transpose_b": (bool,),
    "inputs": (list,),
    "outputs": (list,),
}
_REPLY_FIELDS: Mapping[str, _Kinds] = {
    "sequence": (int,),
    "outputs": (list,),
    "deserialize_s": (float,),
    "device_s": (float,),
    "payload_copies": (int,),
    "serialize_s": (float,),
}
_HELLO_FIELDS: Mapping[str, _Kinds] = {
    "protocol": (int,),
    "config": (dict,),
    "digest": (str,),
    "dtype": (str,),
    "device": (str,),
    "granularity": (str,),
}
_REFUSAL_FIELDS: Mapping[str, _Kinds] = {"kind": (str,), "field": (str,), "problem": (str,)}


def _checked(fields: Mapping[str, Any], kinds: Mapping[str, _Kinds]) -> list[Any]:
    """Return the values of the fields that ``kinds`` names, each of an allowed type and size.

    Types are compared exactly: a bool must not pass for an int. This is on the path of every call, so it
    is one plain loop.
    """
    values = []
    for name, allowed in kinds.items():
        try:
            value = fields[name]
        except KeyError:
            raise ProtocolError(name, "is missing") from None
        kind = type(value)
        if kind not in allowed:
            raise ProtocolError(name, f"has the wrong type {kind.__name__}")
        if kind is int:
            if not 0 <= value <= _MAX_INTEGER:
                raise ProtocolError(name, f"{value} is out of range")
        elif kind is str:
            if len(value) > _MAX_TEXT:
                raise ProtocolError(name, f"has {len(value)} characters, {_MAX_TEXT} are allowed")
        elif kind is list and len(value) > _MAX_ENTRIES:
            raise ProtocolError(name, f"has {len(value)} entries, {_MAX_ENTRIES} are allowed")
        values.append(value)
    return values


def _check_offset(field: str, value: object) -> None:
    if type(value) is not int:
        raise ProtocolError(field, f"must be an offset, got {_kind(value)}")
    if not 0 <= value <= _MAX_INTEGER:
        raise ProtocolError(field, f"offset {value} is out of range")


def _tensors(name: str, values: Sequence[object]) -> list[TensorMessage]:
    return [_tensor(f"{name}[{index}]", value) for index, value in enumerate(values)]


def _tensor(path: str, value: object) -> TensorMessage:
    if type(value) is not dict:
        raise ProtocolError(path, f"must be a map, got {_kind(value)}")
    try:
        dtype_name, shape, payload = value["dtype"], value["shape"], value["payload"]
    except KeyError as error:
        raise ProtocolError(f"{path}.{error.args[0]}", "is missing") from None
    dtype = DTYPES.get(dtype_name) if type(dtype_name) is str else None
    if dtype is None:
        raise ProtocolError(
            f"{path}.dtype", f"{_shown(dtype_name)} is not one of {', '.join(DTYPES)}"
        )
    if type(shape) is not list or not 1 <= len(shape) <= _MAX_DIMENSIONS:
        raise ProtocolError(f"{path}.shape", f"must be a list of 1 to {_MAX_DIMENSIONS} dimensions")
    for dimension in shape:
        if type(dimension) is not int or not 1 <= dimension <= _MAX_INTEGER:
            raise ProtocolError(
                f"{path}.shape", f"dimension {_shown(dimension)} is not a positive integer"
            )
    spec = TensorSpec(dtype, tuple(shape))
    if type(payload) is bytes:
        if len(payload) != spec.nbytes:
            raise ProtocolError(
                f"{path}.payload", f"has {len(payload)} bytes, {spec} needs {spec.nbytes}"
            )
    else:
        _check_offset(f"{path}.payload", payload)
    return TensorMessage(spec, payload)
