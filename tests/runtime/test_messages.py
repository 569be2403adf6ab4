"""The checks on what crosses: whatever arrives is either right or refused by the name of a field."""

from __future__ import annotations

import contextlib
import math
import re
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import HandshakeError, ProtocolError
from runtime.messages import (
    PROTOCOL_VERSION,
    ErrorReply,
    Hello,
    Reply,
    Request,
    TensorMessage,
    Welcome,
    decode_reply,
    decode_request,
    decode_welcome,
    encode_error,
    encode_hello,
    encode_reply,
    encode_request,
    encode_welcome,
)
from runtime.operations import Call
from runtime.tensors import TensorSpec
from runtime.trace import WorkerDurations
from tests.runtime.peers import nested, packed

OWN = Hello(PROTOCOL_VERSION, {"vocab_size": 9}, "00ff", "float32", "cpu", "layer")

FIELD = re.compile(r"[a-z_]+(\[\d+\])?(\.[a-z_]+)?")

INTEGERS = st.integers(0, 2**63 - 1)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
SPECS = st.builds(
    TensorSpec,
    st.sampled_from((torch.float32, torch.bfloat16, torch.int64)),
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
)


PING = msgpack.unpackb(encode_request(1, 1, Call("ping"), (), ()))


@st.composite
def tensors(draw: st.DrawFn) -> TensorMessage:
    spec = draw(SPECS)
    return TensorMessage.of(spec, draw(INTEGERS | st.just(bytes(spec.nbytes))))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    modules = draw(st.lists(st.text(max_size=12), max_size=8).map(tuple))
    layer = draw(st.none() | INTEGERS)
    return Request(
        session=draw(INTEGERS),
        sequence=draw(INTEGERS),
        operation=draw(st.text(max_size=20)),
        layer=layer,
        modules=modules,
        transpose_b=draw(st.booleans()),
        cache=draw(st.lists(INTEGERS, max_size=4).map(tuple)),
        inputs=draw(st.lists(tensors(), max_size=8)),
        outputs=draw(st.lists(INTEGERS, max_size=8)),
    )


def encoded(request: Request) -> bytes:
    specs = [tensor.spec for tensor in request.inputs]
    payloads = [tensor.payload for tensor in request.inputs]
    return encode_request(
        request.session,
        request.sequence,
        request.call,
        specs,
        payloads,
        request.outputs,
        request.cache,
    )


def reply_fields(**changes: Any) -> dict[str, Any]:
    return {
        "sequence": 1,
        "outputs": [{"dtype": "float32", "shape": [2], "payload": bytes(8)}],
        "deserialize_s": 0.0,
        "device_s": 0.0,
        "serialize_s": 0.0,
        "payload_copies": 0,
        **changes,
    }


def hello_fields(**changes: Any) -> dict[str, Any]:
    return {**msgspec.to_builtins(OWN), **changes}


def hello(fields: dict[str, Any]) -> Hello:
    """Decode as a worker does."""
    found = decode_request(packed({"hello": fields}))
    assert isinstance(found, Hello)
    return found


def refused_field(decode: Callable[[bytes], object], fields: object) -> str | None:
    """The field for which ``decode`` refuses a message of ``fields``, None where it takes it."""
    return refused_field_of(decode, packed(fields))


def refused_field_of(decode: Callable[[bytes], object], raw: bytes) -> str | None:
    try:
        decode(raw)
    except ProtocolError as error:
        return error.field
    except HandshakeError as error:
        return str(error).partition(":")[0]
    return None


@given(requests())
def test_a_request_arrives_as_it_was_sent(request_: Request) -> None:
    assert decode_request(encoded(request_)) == request_


@given(INTEGERS, st.lists(tensors(), max_size=8), st.floats(0, 9), st.floats(0, 9), INTEGERS)
def test_a_reply_arrives_as_it_was_sent(
    sequence: int, outputs: list[TensorMessage], deserialize_s: float, device_s: float, copies: int
) -> None:
    started = time.perf_counter()
    sent = Reply(sequence, outputs, deserialize_s, device_s, copies, serialize_s=0.0)
    reply = decode_reply(bytes(encode_reply(sent, lambda: time.perf_counter() - started)))
    assert isinstance(reply, Reply)

    assert (reply.sequence, list(reply.outputs), reply.payload_copies) == (
        sequence,
        outputs,
        copies,
    )
    assert (reply.deserialize_s, reply.device_s) == (deserialize_s, device_s)
    assert 0 <= reply.serialize_s <= time.perf_counter() - started


PRINTABLE = st.text(max_size=40).filter(str.isprintable)


@given(PRINTABLE, PRINTABLE, PRINTABLE)
def test_an_error_arrives_as_it_was_sent(kind: str, field: str, problem: str) -> None:
    sent = ErrorReply.of(kind, field, problem)
    assert decode_reply(encode_error(sent)) == decode_welcome(encode_error(sent)) == sent


def test_an_error_is_never_too_long_to_be_read_nor_to_be_shown() -> None:
    found = decode_reply(encode_error(ErrorReply.of("protocol", "x" * 10**6, "y" * 10**6)))
    assert isinstance(found, ErrorReply)
    assert 900 < len(found.field) < 1100
    assert 900 < len(found.problem) < 1100


@given(st.text(alphabet=st.characters(categories=("Cc", "Cf", "Zl", "Zp")), min_size=1))
def test_what_a_terminal_would_obey_is_not_in_an_error(text: str) -> None:
    raw = packed({"error": {"kind": "failure", "field": text[:99], "problem": f"{text} [31m"}})
    found = decode_reply(raw)
    assert isinstance(found, ErrorReply)
    assert found.problem
    assert (found.field + found.problem).isprintable()


def test_results_are_no_error() -> None:
    assert isinstance(decode_reply(packed(reply_fields())), Reply)


def test_a_welcome_arrives_as_it_was_sent() -> None:
    sent = Welcome(OWN, 2**62, {"device_name": "a cpu", "pid": 7})
    assert decode_welcome(encode_welcome(sent)) == sent
    assert decode_request(encode_hello(OWN)) == OWN


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "hello"),
        ({"hello": {}}, "protocol|hello.protocol"),
        ({"hello": 1}, "hello"),
        ({"hello": msgspec.to_builtins(OWN), "session": -1, "worker": {}}, "session"),
        ({"hello": msgspec.to_builtins(OWN), "session": 1}, "worker"),
        (
            {"hello": msgspec.to_builtins(OWN), "session": 1, "worker": {"a": [1]}},
            "worker",
        ),
        ({"error": 1}, "error"),
        ({"error": {"kind": "x"}}, "field"),
    ],
    ids=str,
)
def test_a_welcome_that_is_none_is_refused_by_name(value: Any, field: str) -> None:
    found = refused_field(decode_welcome, value)
    assert found is not None
    assert re.fullmatch(field, found)


@settings(max_examples=500)
@given(st.binary(max_size=200) | VALUES.map(packed))
def test_any_bytes_are_refused_by_each_decoder(raw: bytes) -> None:
    for decode in (decode_request, decode_reply, decode_welcome):
        assert refused_field_of(decode, raw) is not None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"\xc1", "a byte that begins nothing"),
        (b"\x81\xa1a", "a map without its value"),
        (b"\x80\x80", "two messages in one"),
        (b"\x90", "a list"),
        (b"\xc0", "nil"),
        (b"\x81\x01\x01", "a key that is no text"),
        (b"\x81\x90\x01", "a key that cannot be hashed"),
        (b"\x81\xa2\xed\xa0\x01", "text that is not UTF-8"),
        (b"\xdd\xff\xff\xff\xff", "a list of four thousand million entries"),
        (b"\xdf\xff\xff\xff\xff", "a map of as many"),
        (b"\xc6\xff\xff\xff\xff", "as many bytes"),
        (b"\xd7\xff" + b"\xff" * 8, "a time that is none"),
        (b"\x91" * 100_000 + b"\xc0", "deeper nesting than any stack"),
        (b"\x81\xa1a" * 100_000 + b"\xc0", "the same of maps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_that_is_no_map_is_refused(raw: bytes, reason: str) -> None:
    for decode in (decode_request, decode_reply, decode_welcome):
        with pytest.raises(ProtocolError) as caught:
            decode(raw)
        assert caught.value.field == "message" or not raw.startswith(
            (b"\xc1", b"\x90", b"\xc0", b"\x91")
        )


@pytest.mark.parametrize("nested", [b"\x80", b"\xd4\x05a"], ids=["empty maps", "extensions"])
def test_a_bomb_costs_no_more_than_its_bytes(nested: bytes) -> None:
    count = 1_000_000
    bomb = b"\xdd" + count.to_bytes(4, "big") + nested * count  # a list of as many
    for name in (b"inputs", b"session", b"hello", b"error", b"unknown"):
        raw = b"\x81" + bytes([0xA0 + len(name)]) + name + bomb
        for decode in (decode_request, decode_reply, decode_welcome):
            tracemalloc.start()
            with pytest.raises((ProtocolError, HandshakeError)):
                decode(raw)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 100_000 + 2 * len(raw)


@settings(max_examples=200)
@given(requests(), st.data())
def test_any_value_in_a_request_is_taken_or_refused_by_name(
    request_: Request, data: st.DataObject
) -> None:
    fields: dict[str, Any] = msgpack.unpackb(encoded(request_))
    changed = data.draw(st.sampled_from(sorted(fields)))
    inputs = fields["inputs"]
    if changed == "inputs" and inputs and data.draw(st.booleans()):
        part = data.draw(st.sampled_from(("dtype", "shape", "payload")))
        inputs[data.draw(st.integers(0, len(inputs) - 1))][part] = data.draw(VALUES)
    else:
        fields[changed] = data.draw(VALUES)
    field = refused_field(decode_request, fields)
    assert not field or (field.startswith(changed) and FIELD.fullmatch(field))


@settings(max_examples=200)
@given(st.sampled_from(sorted(reply_fields())), VALUES)
def test_any_value_in_a_reply_is_taken_or_refused_by_name(changed: str, value: Any) -> None:
    field = refused_field(decode_reply, reply_fields(**{changed: value}))
    assert not field or field.startswith(changed)


@settings(max_examples=200)
@given(VALUES)
def test_any_error_field_is_an_error_or_refused(value: Any) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode_reply(packed({"error": value})), ErrorReply)


@settings(max_examples=200)
@given(st.sampled_from(sorted(hello_fields())), VALUES)
def test_any_value_in_a_hello_is_taken_or_refused_by_name(changed: str, value: Any) -> None:
    problem = ""
    try:
        hello(hello_fields(**{changed: value})).check_against(OWN)
    except (ProtocolError, HandshakeError) as error:
        problem = str(error)
    assert problem.startswith(changed) if problem else value == getattr(OWN, changed)


@pytest.mark.parametrize(
    ("decode", "fields"),
    [
        (lambda fields: decode_request(packed(fields)), PING),
        (lambda fields: decode_reply(packed(fields)), reply_fields()),
        (hello, hello_fields()),
    ],
    ids=["request", "reply", "hello"],
)
def test_a_missing_field_is_named(decode: Any, fields: dict[str, Any]) -> None:
    for name in fields:
        with pytest.raises(ProtocolError, match=f"^{name}: is missing"):
            decode({key: value for key, value in fields.items() if key != name})


@pytest.mark.parametrize("name", ["session", "sequence", "layer"])
def test_a_truth_value_does_not_pass_for_a_number(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{name}: "):
        decode_request(packed({**PING, name: True}))


@pytest.mark.parametrize("decode", [decode_request, decode_reply], ids=["request", "reply"])
def test_a_field_that_nobody_knows_is_refused(decode: Any) -> None:
    fields = PING if decode is decode_request else reply_fields()
    with pytest.raises(ProtocolError, match="unknown field"):
        decode(packed({**fields, "more": 1}))


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ([], "length >= 1"),
        ([1, 1, 1, 1, 1], "length <= 4"),
        ([0], "`int` >= 1"),
        ([-1, -2], "`int` >= 1"),
        ([True, 2], "got `bool`"),
        ([2.0], "got `float`"),
        ([2**63], "`int` <= 9223372036854775807"),
    ],
    ids=str,
)
def test_a_shape_of_anything_but_positive_dimensions_is_refused(
    shape: list[Any], problem: str
) -> None:
    tensor = {"dtype": "float32", "shape": shape, "payload": bytes(8)}
    with pytest.raises(ProtocolError, match=problem) as caught:
        decode_reply(packed(reply_fields(outputs=[tensor])))
    assert caught.value.field == "outputs[0].shape"


@pytest.mark.parametrize(
    "shape", [[1], [3], [2**62], [2**62, 4], [2**63 - 1] * 4], ids=lambda shape: f"{len(shape)}d"
)
def test_a_payload_must_be_as_long_as_its_shape_says_without_overflow(shape: list[int]) -> None:
    tensor = {"dtype": "float32", "shape": shape, "payload": bytes(8)}
    with pytest.raises(ProtocolError, match="8 bytes") as caught:
        decode_reply(packed(reply_fields(outputs=[tensor])))
    assert caught.value.field == "outputs[0].payload"


@pytest.mark.parametrize("place", ["dtype", "shape", "dimension", "payload"])
@pytest.mark.parametrize("depth", [500, 950, 1000, 1015])
def test_a_deeply_nested_value_is_refused_by_name(place: str, depth: int) -> None:
    tensor: dict[str, Any] = {"dtype": "float32", "shape": [2], "payload": bytes(8)}
    tensor["shape" if place == "dimension" else place] = (
        [nested(depth)] if place == "dimension" else nested(depth)
    )
    with pytest.raises(ProtocolError) as caught:
        decode_reply(packed(reply_fields(outputs=[tensor])))
    assert caught.value.field.startswith("outputs[0].")


@pytest.mark.parametrize("depth", [3, 500, 950, 1000, 1015])
def test_a_deeply_nested_configuration_is_refused_by_name(depth: int) -> None:
    with pytest.raises(ProtocolError, match=r"^config"):
        hello(hello_fields(config={"vocab_size": nested(depth)}))


@pytest.mark.parametrize("value", ["x" * 4096, "\x1b[31m" * 99], ids=["long", "control characters"])
def test_somebody_elses_configuration_is_shown_short_and_without_what_a_terminal_obeys(
    value: str,
) -> None:
    for config in ({"vocab_size": value}, {value: 1}):
        with pytest.raises(HandshakeError, match=r"^config") as caught:
            hello(hello_fields(config=config)).check_against(OWN)
        assert len(str(caught.value)) < 1000
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "config",
    [{"vocab_size": "x" * 10**6}, {"a" * 10**6: 1}, dict.fromkeys(map(str, range(99)), 1)],
    ids=["value", "name", "count"],
)
def test_an_overlong_configuration_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=r"^config"):
        hello(hello_fields(config=config))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"protocol": PROTOCOL_VERSION + 1}, f"protocol: .* version {PROTOCOL_VERSION + 1}"),
        ({"config": {"vocab_size": 8}}, r"config\.vocab_size: .*8.*9"),
        ({"config": {}}, r"config\.vocab_size"),
        ({"config": {"vocab_size": 9, "extra": 1}}, r"config\.extra"),
        ({"digest": "ff00"}, "digest: .*ff00.*00ff"),
        ({"dtype": "bfloat16"}, "dtype: .*bfloat16.*float32"),
        ({"device": "cuda"}, "device: .*cuda.*cpu"),
        ({"granularity": "operation"}, "granularity: .*operation.*layer"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, Mapping) else "",
)
def test_a_hello_that_differs_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(HandshakeError, match=named):
        hello(hello_fields(**changes)).check_against(OWN)


def test_another_protocol_version_is_said_before_its_other_fields_are_missed() -> None:
    with pytest.raises(HandshakeError, match=r"^protocol"):
        hello({"protocol": PROTOCOL_VERSION + 1})
    with pytest.raises(HandshakeError, match=r"^protocol"):
        decode_welcome(packed({"hello": {"protocol": PROTOCOL_VERSION + 1}, "session": "new"}))


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf, 1e308, 1.5])
@pytest.mark.parametrize("name", ["deserialize_s", "device_s", "serialize_s"])
def test_a_duration_that_cannot_be_true_is_a_problem(name: str, value: float) -> None:
    right = {"deserialize_s": 0.1, "device_s": 0.1, "serialize_s": 0.1}
    assert WorkerDurations(**right).checked_total_s(1.0) == pytest.approx(0.3)
    with pytest.raises(ProtocolError, match=r"^durations"):
        WorkerDurations(**{**right, name: value}).checked_total_s(1.0)


def test_durations_that_are_longer_than_the_round_trip_together_are_a_problem() -> None:
    for each_s in (0.4, 1e308):
        with pytest.raises(ProtocolError, match=r"^durations"):
            WorkerDurations(each_s, each_s, each_s).checked_total_s(1.0)
