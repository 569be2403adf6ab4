"""The checks on what crosses: whatever arrives is either right or refused by the name of a field."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import HandshakeError, ProtocolError
from runtime.messages import (
    PROTOCOL_VERSION,
    Hello,
    Refusal,
    Reply,
    Request,
    TensorMessage,
    encode_reply,
    unpackb,
)
from runtime.operations import Call
from runtime.tensors import TensorSpec
from runtime.trace import WorkerDurations
from tests.runtime.peers import nested, packed

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


@st.composite
def tensors(draw: st.DrawFn) -> TensorMessage:
    spec = draw(SPECS)
    return TensorMessage(spec, draw(INTEGERS | st.just(bytes(spec.nbytes))))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    modules = draw(st.lists(st.text(max_size=12), max_size=8).map(tuple))
    layer = draw(st.none() | INTEGERS)
    return Request(
        session=draw(INTEGERS),
        sequence=draw(INTEGERS),
        call=Call(draw(st.text(max_size=20)), layer, modules, draw(st.booleans())),
        inputs=draw(st.lists(tensors(), max_size=8)),
        outputs=draw(st.lists(INTEGERS, max_size=8)),
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
    fields = Hello(PROTOCOL_VERSION, {"vocab_size": 9}, "00ff", "float32", "cpu", "layer").pack()
    return {**fields, **changes}


def refused_field(parse: Callable[[Any], object], value: object) -> str | None:
    """The field for which ``parse`` refuses ``value``, None where it takes it."""
    try:
        parse(value)
    except ProtocolError as error:
        return error.field
    except HandshakeError as error:
        return str(error).partition(":")[0]
    return None


@given(requests())
def test_a_request_arrives_as_it_was_sent(request_: Request) -> None:
    assert Request.parse(unpackb(request_.encode())) == request_


@given(INTEGERS, st.lists(tensors(), max_size=8), st.floats(0, 9), st.floats(0, 9), INTEGERS)
def test_a_reply_arrives_as_it_was_sent(
    sequence: int, outputs: list[TensorMessage], deserialize_s: float, device_s: float, copies: int
) -> None:
    started = time.perf_counter()
    raw = encode_reply(sequence, outputs, deserialize_s, device_s, copies, started)
    reply = Reply.parse(unpackb(raw))

    durations = reply.durations
    assert (reply.sequence, list(reply.outputs), reply.payload_copies) == (
        sequence,
        outputs,
        copies,
    )
    assert (durations.deserialize_s, durations.device_s) == (deserialize_s, device_s)
    assert 0 <= durations.serialize_s <= time.perf_counter() - started


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_a_refusal_arrives_as_it_was_sent(kind: str, field: str, problem: str) -> None:
    assert Refusal.find(unpackb(Refusal(kind, field, problem).encode())) == Refusal(
        kind, field, problem
    )


def test_a_refusal_is_never_too_long_to_be_read() -> None:
    refusal = Refusal.find(unpackb(Refusal("protocol", "x" * 10**6, "y" * 10**6).encode()))
    assert refusal is not None
    assert len(refusal.field) == len(refusal.problem) == 4096


def test_results_are_no_refusal() -> None:
    assert Refusal.find(reply_fields()) is None


@settings(max_examples=500)
@given(st.binary(max_size=200) | VALUES.map(packed))
def test_any_bytes_are_a_map_or_refused(raw: bytes) -> None:
    field = refused_field(unpackb, raw)
    assert field == "message" if field else type(unpackb(raw)) is dict


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
    with pytest.raises(ProtocolError) as caught:
        unpackb(raw)
    assert caught.value.field == "message"


@settings(max_examples=200)
@given(requests(), st.data())
def test_any_value_in_a_request_is_taken_or_refused_by_name(
    request_: Request, data: st.DataObject
) -> None:
    fields: dict[str, Any] = msgpack.unpackb(request_.encode())
    changed = data.draw(st.sampled_from(sorted(fields)))
    inputs = fields["inputs"]
    if changed == "inputs" and inputs and data.draw(st.booleans()):
        part = data.draw(st.sampled_from(("dtype", "shape", "payload")))
        inputs[data.draw(st.integers(0, len(inputs) - 1))][part] = data.draw(VALUES)
    else:
        fields[changed] = data.draw(VALUES)
    field = refused_field(Request.parse, fields)
    assert not field or (field.startswith(changed) and FIELD.fullmatch(field))


@settings(max_examples=200)
@given(st.sampled_from(sorted(reply_fields())), VALUES)
def test_any_value_in_a_reply_is_taken_or_refused_by_name(changed: str, value: Any) -> None:
    field = refused_field(Reply.parse, reply_fields(**{changed: value}))
    assert not field or field.startswith(changed)


@settings(max_examples=200)
@given(VALUES)
def test_any_error_field_is_a_refusal_or_refused(value: Any) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(Refusal.find({"error": value}), Refusal)


@settings(max_examples=200)
@given(st.sampled_from(sorted(hello_fields())), VALUES)
def test_any_value_in_a_hello_is_taken_or_refused_by_name(changed: str, value: Any) -> None:
    own = Hello.parse(hello_fields())
    field = refused_field(
        lambda fields: Hello.parse(fields).check_against(own), hello_fields(**{changed: value})
    )
    assert field.startswith(changed) if field else value == getattr(own, changed)


@pytest.mark.parametrize(
    ("parse", "fields"),
    [
        (Request.parse, msgpack.unpackb(Request(1, 1, Call("ping"), []).encode())),
        (Reply.parse, reply_fields()),
        (Hello.parse, hello_fields()),
    ],
    ids=["request", "reply", "hello"],
)
def test_a_missing_field_is_named(parse: Any, fields: dict[str, Any]) -> None:
    for name in fields:
        with pytest.raises(ProtocolError, match=f"^{name}: is missing"):
            parse({key: value for key, value in fields.items() if key != name})


@pytest.mark.parametrize("name", ["session", "sequence", "layer"])
def test_a_truth_value_does_not_pass_for_a_number(name: str) -> None:
    fields = msgpack.unpackb(Request(1, 1, Call("ping"), []).encode())
    with pytest.raises(ProtocolError, match=f"^{name}: "):
        Request.parse({**fields, name: True})


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ([], "1 to 4 dimensions"),
        ([1, 1, 1, 1, 1], "1 to 4 dimensions"),
        ([0], "not a positive integer"),
        ([-1, -2], "not a positive integer"),
        ([True, 2], "not a positive integer"),
        ([2.0], "not a positive integer"),
        ([2**63], "not a positive integer"),
    ],
    ids=str,
)
def test_a_shape_of_anything_but_positive_dimensions_is_refused(
    shape: list[Any], problem: str
) -> None:
    tensor = {"dtype": "float32", "shape": shape, "payload": bytes(8)}
    with pytest.raises(ProtocolError, match=problem) as caught:
        Reply.parse(reply_fields(outputs=[tensor]))
    assert caught.value.field == "outputs[0].shape"


@pytest.mark.parametrize(
    "shape", [[1], [3], [2**62], [2**62, 4], [2**63 - 1] * 4], ids=lambda shape: f"{len(shape)}d"
)
def test_a_payload_must_be_as_long_as_its_shape_says_without_overflow(shape: list[int]) -> None:
    tensor = {"dtype": "float32", "shape": shape, "payload": bytes(8)}
    with pytest.raises(ProtocolError, match="8 bytes") as caught:
        Reply.parse(reply_fields(outputs=[tensor]))
    assert caught.value.field == "outputs[0].payload"


@pytest.mark.parametrize("place", ["dtype", "shape", "dimension", "payload"])
@pytest.mark.parametrize("depth", [500, 950, 1000, 1015])
def test_a_deeply_nested_value_is_refused_by_name(place: str, depth: int) -> None:
    tensor: dict[str, Any] = {"dtype": "float32", "shape": [2], "payload": bytes(8)}
    tensor["shape" if place == "dimension" else place] = (
        [nested(depth)] if place == "dimension" else nested(depth)
    )
    with pytest.raises(ProtocolError) as caught:
        Reply.parse(unpackb(packed(reply_fields(outputs=[tensor]))))
    assert caught.value.field.startswith("outputs[0].")


@pytest.mark.parametrize("depth", [500, 950, 1000, 1015])
def test_a_deeply_nested_configuration_is_refused_by_name(depth: int) -> None:
    theirs = unpackb(packed(hello_fields(config={"vocab_size": nested(depth)})))
    with pytest.raises(HandshakeError, match=r"^config\.vocab_size"):
        Hello.parse(theirs).check_against(Hello.parse(hello_fields()))


@pytest.mark.parametrize("name", ["vocab_size", "a" * 10**6], ids=["value", "name"])
def test_an_overlong_configuration_makes_no_overlong_error(name: str) -> None:
    theirs = Hello.parse(hello_fields(config={name: "x" * 10**6}))
    with pytest.raises(HandshakeError, match=r"^config") as caught:
        theirs.check_against(Hello.parse(hello_fields()))
    assert len(str(caught.value)) < 10_000


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
        Hello.parse(hello_fields(**changes)).check_against(Hello.parse(hello_fields()))


def test_another_protocol_version_is_said_before_its_other_fields_are_missed() -> None:
    with pytest.raises(HandshakeError, match=r"^protocol"):
        Hello.parse({"protocol": PROTOCOL_VERSION + 1})


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf, 1e308, 1.5])
@pytest.mark.parametrize("name", ["deserialize_s", "device_s", "serialize_s"])
def test_a_duration_that_cannot_be_true_is_a_problem(name: str, value: float) -> None:
    right = {"deserialize_s": 0.1, "device_s": 0.1, "serialize_s": 0.1}
    assert WorkerDurations(**right).problem(1.0) is None
    assert WorkerDurations(**{**right, name: value}).problem(1.0)


def test_durations_that_are_longer_than_the_round_trip_together_are_a_problem() -> None:
    assert WorkerDurations(0.4, 0.4, 0.4).problem(1.0)
    assert WorkerDurations(1e308, 1e308, 1e308).problem(1.0)
