"""A real worker process under attack: every malformed message is refused by name, and it serves on."""

from __future__ import annotations

import functools
import itertools
import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.operations import Call, linear_shapes, output_specs
from runtime.tensors import DTYPES, TensorSpec
from runtime.transports.arena import aligned
from tests.runtime.peers import (
    ARENA_BYTES,
    Fields,
    RawSeqpacket,
    RealWorker,
    assert_refused,
    nested,
    packed,
    still_serving,
    tiny,
)

EXAMPLES = 500
TRANSPORTS = ("ipc", "tcp", "unix")
PROMPT = list(range(40))

SESSION = "<the session>"
TOKENS = 8
CONFIG = tiny().config
LINEAR = linear_shapes(CONFIG)


# Well-formed requests, to be damaged ----------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """How a transport stands for tensors in a message."""

    shared: bool

    def request(self, call: Call, *inputs: TensorSpec) -> Fields:
        specs = output_specs(CONFIG, torch.float32, call, inputs)
        offsets = itertools.accumulate((aligned(x.nbytes) for x in (*inputs, *specs)), initial=0)
        places = list(offsets)[: len(inputs) + len(specs)]
        return {
            "session": SESSION,
            "sequence": 1,
            "operation": call.operation,
            "layer": call.layer,
            "modules": list(call.modules),
            "transpose_b": call.transpose_b,
            "cache": [],
            "inputs": [
                self.tensor(spec, place) for spec, place in zip(inputs, places, strict=False)
            ],
            "outputs": places[len(inputs) :] if self.shared else [],
        }

    def tensor(self, spec: TensorSpec, place: int) -> Fields:
        name = next(name for name, dtype in DTYPES.items() if dtype == spec.dtype)
        payload = place if self.shared else bytes(spec.nbytes)
        return {"dtype": name, "shape": list(spec.shape), "payload": payload}


def f32(*shape: int) -> TensorSpec:
    return TensorSpec(torch.float32, shape)


CALLS: Mapping[str, tuple[Call, tuple[TensorSpec, ...]]] = {
    "embedding": (Call("embedding"), (TensorSpec(torch.int64, (1, TOKENS)),)),
    "qkv": (
        Call("batch_linear", 0, ("q_proj", "k_proj", "v_proj")),
        (f32(1, TOKENS, CONFIG.hidden_size),),
    ),
    "down": (
        Call("batch_linear", 3, ("down_proj",)),
        (f32(1, TOKENS, CONFIG.intermediate_size),),
    ),
    "scores": (
        Call("matmul", 1, transpose_b=True),
        (f32(2, 2 * TOKENS, CONFIG.head_dim), f32(2, TOKENS, CONFIG.head_dim)),
    ),
    "attended": (
        Call("matmul", 1),
        (f32(2, 2 * TOKENS, TOKENS), f32(2, TOKENS, CONFIG.head_dim)),
    ),
    "lm_head": (Call("lm_head"), (f32(1, CONFIG.hidden_size),)),
    "ping": (Call("ping"), ()),
}


@dataclass(frozen=True, repr=False)
class Malformed:
    """A message that must be refused by naming ``field``, a regular expression."""

    what: str
    fields: object
    field: str
    damage: Callable[[bytes], bytes] = bytes

    def __repr__(self) -> str:
        return self.what

    def encode(self, session: int) -> bytes:
        fields = self.fields
        if isinstance(fields, dict) and fields.get("session") == SESSION:
            fields = {**fields, "session": session}
        return self.damage(packed(fields))


@st.composite
def malformed(draw: st.DrawFn, shared: bool) -> Malformed:
    name = draw(st.sampled_from(sorted(CALLS)))
    call, inputs = CALLS[name]
    fields = Wire(shared).request(call, *inputs)
    kinds = [no_message, lacks_field, wrong_type, out_of_range, unknown_name, wrong_count, refitted]
    if inputs:
        kinds += [bad_dtype, bad_shape, bad_payload, bad_payload]
    if fields["outputs"]:
        kinds += [bad_place, bad_place]
    message: Malformed = draw(draw(st.sampled_from(kinds))(name, fields, shared))
    return message


Strategy = st.SearchStrategy[Malformed]


@st.composite
def no_message(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    length = len(packed(fields))
    kind = draw(
        st.sampled_from(("truncated", "extended", "random", "not a map", "deep", "oversized"))
    )
    if kind == "truncated":
        keep = draw(st.integers(1, length - 1))
        return Malformed(f"{name} cut to {keep} bytes", fields, "message", lambda raw: raw[:keep])
    if kind == "extended":
        more = draw(st.binary(min_size=1, max_size=40))
        return Malformed(f"{name} + {more!r}", fields, "message", lambda raw: raw + more)
    if kind == "random":
        raw = draw(st.binary(min_size=1, max_size=300))
        return Malformed(f"{raw!r}", fields, ".*", lambda _: raw)
    if kind == "deep":
        raw = (
            draw(st.sampled_from((b"\x91", b"\x81\xa1a"))) * draw(st.integers(1, 20_000)) + b"\xc0"
        )
        return Malformed(f"{len(raw)} deep bytes", fields, "[a-z]+", lambda _: raw)
    if kind == "oversized" and shared:
        more = bytes(draw(st.integers(64 * 1024 - length + 1, 128 * 1024)))
        return Malformed(f"{name} + {len(more)} bytes", fields, "message", lambda raw: raw + more)
    value = draw(st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=9))
    return Malformed(f"{value!r} for a map", draw(st.sampled_from((value, [value]))), "message")


@st.composite
def lacks_field(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    places: list[tuple[Fields, str, str]] = [(fields, "", field) for field in fields]
    for index, tensor in enumerate(fields["inputs"]):
        places += [(tensor, f"inputs[{index}].", field) for field in tensor]
    place, path, field = draw(st.sampled_from(places))
    del place[field]
    return Malformed(f"{name} without {path}{field}", fields, re.escape(path + field))


STRANGE: Mapping[str, Any] = {
    "nil": None,
    "true": True,
    "a negative number": -1,
    "a number": 7,
    "a fraction": 1.5,
    "not a number": float("nan"),
    "text": "q_proj",
    "long text": "x" * 5000,
    "bytes": b"\x00" * 9,
    "a list": [1],
    "a list of lists": [[[]]],
    "a deep list": nested(400),
    "a deeper list": nested(1000),
    "a map": {"a": 1},
    "a map of nothing": {},
    "an extension": msgpack.ExtType(5, b"abc"),
    "a time": msgpack.Timestamp(1, 1),
}
RIGHT: Mapping[str, tuple[type, ...]] = {
    "session": (int,),
    "sequence": (int,),
    "operation": (str,),
    "layer": (int, type(None)),
    "modules": (list,),
    "transpose_b": (bool,),
    "cache": (list,),
    "inputs": (list,),
    "outputs": (list,),
}


@st.composite
def wrong_type(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    what, value = draw(st.sampled_from(sorted(STRANGE.items(), key=lambda item: item[0])))
    field = draw(st.sampled_from(sorted(RIGHT)))
    lists = ("modules", "inputs", "outputs")
    if field not in lists and type(value) in RIGHT[field]:
        # Of the right type, and then wrong for another reason, if it is.
        what, value = "a map", {}
    if field in lists and draw(st.booleans()):
        wanted = {"modules": str, "inputs": dict, "outputs": int}[field]
        if type(value) is wanted:
            what, value = "a list", []
        index = draw(st.integers(0, len(fields[field])))
        fields[field].insert(index, value)
        return Malformed(f"{name} with {field}[{index}] {what}", fields, f"{field}\\[{index}\\]")
    if field in lists and type(value) is list:
        what, value = "nil", None
    fields[field] = value
    return Malformed(f"{name} with {field} {what}", fields, field)


HUGE = (-1, -(2**63), 2**31, 2**32, 2**62, 2**63 - 64, 2**63 - 1, 2**63, 2**64 - 64, 2**64 - 1)


@st.composite
def out_of_range(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    field = draw(st.sampled_from(("session", "sequence", "layer")))
    wrong = HUGE if field == "session" else (*HUGE, *((0, 2, 3) if field == "sequence" else (4, 5)))
    fields[field] = draw(st.sampled_from(wrong))
    return Malformed(f"{name} with {field} {fields[field]}", fields, field)


@st.composite
def unknown_name(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    text = draw(st.text(max_size=30) | st.just("x" * 4097) | st.just("x" * 20_000))
    field = draw(st.sampled_from(("operation", "modules")))
    if field == "operation":
        fields["operation"] = text
    else:
        fields["modules"] = draw(
            st.sampled_from(
                (
                    [*fields["modules"], text],
                    [*fields["modules"], "o_proj", "down_proj"],
                    [*fields["modules"], *fields["modules"], "q_proj", "q_proj"],
                    ["q_proj"] * 9,
                )
            )
        )
    return Malformed(f"{name} of {field} {text[:40]!r}", fields, field)


@st.composite
def wrong_count(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    spare = Wire(shared).tensor(f32(1, TOKENS, CONFIG.hidden_size), 0)
    wrong = [count for count in (0, 1, 2, 3, 8, 9, 200) if count != len(fields["inputs"])]
    count = draw(st.sampled_from(wrong))
    fields["inputs"] = ([*fields["inputs"], *[spare] * count])[:count]
    return Malformed(f"{name} of {count} inputs", fields, "inputs")


@st.composite
def refitted(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    """An operation with another's layer, modules, or transposition."""
    takes_modules, per_layer = fields["operation"] == "batch_linear", fields["layer"] is not None
    changes: list[tuple[str, Any]] = [
        ("modules", [] if takes_modules else ["q_proj"]),
        ("layer", None if per_layer else 0),
    ]
    if fields["operation"] != "matmul":
        changes.append(("transpose_b", True))
    field, value = draw(st.sampled_from(changes))
    fields[field] = value
    return Malformed(f"{name} with {field} {value}", fields, field)


@st.composite
def bad_dtype(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    index = draw(st.integers(0, len(fields["inputs"]) - 1))
    tensor = fields["inputs"][index]
    known = [dtype for dtype in DTYPES if dtype != tensor["dtype"]]
    odd = ("float64", "int8", "FLOAT32", "float32\x00", "", "bool", *STRANGE)
    what = draw(st.sampled_from((*known, *odd)))
    tensor["dtype"] = STRANGE.get(what, what)
    if what in known and not shared:  # and else as it must be
        tensor["payload"] = bytes(TensorSpec(DTYPES[what], tuple(tensor["shape"])).nbytes)
    return Malformed(f"{name} of {what}", fields, f"inputs\\[{index}\\]\\.dtype")


@st.composite
def bad_shape(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    index = draw(st.integers(0, len(fields["inputs"]) - 1))
    tensor = fields["inputs"][index]
    shape: list[Any] = tensor["shape"]
    path = f"inputs\\[{index}\\]\\."
    kind = draw(st.sampled_from(("dimension", "rank", "fit", "length", "type")))
    if kind == "type":
        what = draw(st.sampled_from(sorted(set(STRANGE) - {"a list"})))
        tensor["shape"] = STRANGE[what]
        return Malformed(f"{name} of shape {what}", fields, path + "shape")
    if kind == "dimension":
        axis = draw(st.integers(0, len(shape) - 1))
        odd: tuple[Any, ...] = (0, -1, True, 1.0, None, "1", b"\x01", [1], *HUGE)
        shape[axis] = draw(st.sampled_from(odd))
        # A huge dimension is a number, but nothing is as long: either may be named, or its place, or what it is
        # multiplied with, which is not as long either.
        of = "inputs\\[[01]\\]\\." if fields["operation"] == "matmul" else path
        return Malformed(f"{name} of {shape}", fields, of + "(shape|payload)")
    if kind == "rank":
        tensor["shape"] = draw(st.sampled_from(([], [1] * 5, [1] * 4, [1] * 4000)))
        rank = len(tensor["shape"])
        return Malformed(f"{name} of {rank} dimensions", fields, path + "(shape|payload)")
    operation = fields["operation"]
    if kind == "length" and operation in ("embedding", "batch_linear"):
        shape[1] = CONFIG.max_positions + draw(st.integers(1, 100))
    elif operation == "embedding":
        shape.append(1)
    else:
        # Of two inputs that do not fit, either may be named.
        path = "inputs\\[[01]\\]\\."
        tensor = fields["inputs"][0]
        shape = tensor["shape"]
        shape[-1] += draw(st.integers(1, 5))
    if not shared:  # and else as it must be
        tensor["payload"] = bytes(TensorSpec(DTYPES[tensor["dtype"]], tuple(shape)).nbytes)
    return Malformed(f"{name} of {shape}", fields, path + "shape")


def wrong_offsets(nbytes: int) -> tuple[int, ...]:
    """Places where ``nbytes`` cannot lie in the arena."""
    last = (ARENA_BYTES - nbytes) // 64 * 64
    return (1, 4, 63, 65, last + 64, ARENA_BYTES, ARENA_BYTES + 64, *HUGE)


@st.composite
def bad_payload(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    index = draw(st.integers(0, len(fields["inputs"]) - 1))
    tensor = fields["inputs"][index]
    field = f"inputs\\[{index}\\]\\.payload"
    nbytes = TensorSpec(DTYPES[tensor["dtype"]], tuple(tensor["shape"])).nbytes
    odd = [what for what, value in STRANGE.items() if type(value) not in (int, bytes)]
    what = draw(st.sampled_from(("of the other transport", "wrong", *odd)))
    if what in STRANGE:
        tensor["payload"] = STRANGE[what]
    elif what == "of the other transport":
        tensor["payload"] = bytes(nbytes) if shared else 0
    elif shared:
        tensor["payload"] = draw(st.sampled_from(wrong_offsets(nbytes)))
        what = f"at {tensor['payload']}"
    else:
        wrong = st.integers(0, 2 * nbytes).filter(lambda length: length != nbytes)
        tensor["payload"] = bytes(draw(wrong))
        what = f"of {len(tensor['payload'])} bytes"
    return Malformed(f"{name} with payload {what}", fields, field)


@st.composite
def bad_place(draw: st.DrawFn, name: str, fields: Fields, shared: bool) -> Malformed:
    places = fields["outputs"]
    index = draw(st.integers(0, len(places) - 1))
    field = f"outputs(\\[{index}\\])?"
    kind = draw(st.sampled_from(("outside", "missing", "surplus", "many", "on input", "on output")))
    if kind == "missing":
        del places[index:]
    elif kind in ("surplus", "many"):
        places += [ARENA_BYTES // 2] * (1 if kind == "surplus" else 9)
        field = r"outputs(\[\d+\])?"
    elif kind == "on input":
        places[index] = fields["inputs"][0]["payload"]
        field = r"(outputs|inputs)(\[\d+\])?(\.payload)?"
    elif kind == "on output" and len(places) > 1:
        places[index] = places[index - 1]
        field = r"outputs(\[\d+\])?"
    else:
        places[index] = draw(st.sampled_from(wrong_offsets(4 * CONFIG.num_kv_heads)))
    return Malformed(f"{name} with places {kind}: {places}", fields, field)


# The attacks ----------------------------------------------------------------------------------------


@functools.lru_cache
def strategy(shared: bool) -> Strategy:
    return malformed(shared)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_malformed_request_is_refused_by_name_and_the_worker_serves_on(
    workers: Callable[[str], RealWorker], transport: str
) -> None:
    worker = workers(transport)
    shared = transport == "unix"

    with still_serving(worker), worker.raw() as client:

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy(shared))
        def attack(message: Malformed) -> None:
            client.greet()
            assert_refused(client.exchange(message.encode(client.session)), message.field)

        if isinstance(client, RawSeqpacket):
            client.bring_arena()
        attack()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_request_that_the_attacks_damage_is_right_before(
    workers: Callable[[str], RealWorker], transport: str
) -> None:
    with workers(transport).raw() as client:
        if isinstance(client, RawSeqpacket):
            client.bring_arena()
        for call, inputs in CALLS.values():
            client.greet()
            fields = Wire(transport == "unix").request(call, *inputs)
            answer = client.exchange({**fields, "session": client.session})
            specs = output_specs(CONFIG, torch.float32, call, inputs)
            shapes = [] if transport == "unix" else [list(spec.shape) for spec in specs]
            assert [output["shape"] for output in answer["outputs"]] == shapes


@pytest.mark.parametrize("transport", TRANSPORTS)
class TestTurns:
    def test_a_replayed_request_is_refused(
        self, workers: Callable[[str], RealWorker], transport: str
    ) -> None:
        with workers(transport).raw() as client:
            client.greet()
            request = client.request("ping")
            assert client.exchange(request)["sequence"] == 1
            assert_refused(client.exchange(request), "sequence")
            assert client.exchange(client.request("ping"))["sequence"] == 2

    def test_a_skipped_sequence_number_is_refused(
        self, workers: Callable[[str], RealWorker], transport: str
    ) -> None:
        with workers(transport).raw() as client:
            client.greet()
            client.request("ping")
            assert_refused(client.exchange(client.request("ping")), "sequence")

    def test_a_request_of_an_earlier_session_is_refused(
        self, workers: Callable[[str], RealWorker], transport: str
    ) -> None:
        with workers(transport).raw() as client:
            client.greet()
            earlier = client.request("ping")
            client.greet()
            assert_refused(client.exchange(earlier), "session")

    def test_sessions_cannot_be_guessed_from_one_another(
        self, workers: Callable[[str], RealWorker], transport: str
    ) -> None:
        with workers(transport).raw() as client:
            sessions = [client.greet()["session"] for _ in range(20)]
        assert len({session >> 20 for session in sessions}) == 20

    def test_nothing_is_computed_before_the_handshake(
        self, workers: Callable[[str], RealWorker], transport: str
    ) -> None:
        with workers(transport).raw() as client:
            assert_refused(client.exchange(client.request("ping")), "session")

    def test_nothing_is_computed_after_a_failed_handshake(
        self, workers: Callable[[str], RealWorker], transport: str
    ) -> None:
        with workers(transport).raw() as client:
            hello = client.greet()["hello"]
            answer = client.exchange({"hello": {**hello, "digest": "0"}})
            assert_refused(answer, "hello", ("handshake",))
            assert_refused(client.exchange(client.request("ping")), "session")

    @pytest.mark.parametrize("value", [None, 1, [], "x", {}, {"protocol": True}])
    def test_a_malformed_hello_is_refused(
        self, workers: Callable[[str], RealWorker], transport: str, value: object
    ) -> None:
        with workers(transport).raw() as client:
            assert_refused(client.exchange({"hello": value}), "hello|protocol")

    @pytest.mark.parametrize("depth", [400, 1000, 1015])
    def test_a_deeply_nested_hello_is_refused(
        self, workers: Callable[[str], RealWorker], transport: str, depth: int
    ) -> None:
        with workers(transport).raw() as client:
            hello = client.greet()["hello"]
            config = {**hello["config"], "vocab_size": nested(depth)}
            answer = client.exchange({"hello": {**hello, "config": config}})
            assert_refused(answer, "config")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_token_id_out_of_the_vocabulary_is_refused(
    workers: Callable[[str], RealWorker], transport: str
) -> None:
    worker = workers(transport)
    with still_serving(worker), worker.raw() as client:
        for token in (-1, -(2**63), CONFIG.vocab_size, 2**31, 2**63 - 1):
            client.greet()
            ids = struct.pack("8q", 0, token, *[0] * 6)
            payload: bytes | int = ids
            if isinstance(client, RawSeqpacket):
                client.bring_arena()
                assert client.memory is not None
                client.memory[:64] = ids
                payload = 0
            tensor = {"dtype": "int64", "shape": [1, 8], "payload": payload}
            request = client.request("embedding", [tensor], outputs=[64])
            assert_refused(client.exchange(request), r"inputs\[0\].*")


@pytest.mark.parametrize(
    ("transport", "stage", "name"),
    [
        ("tcp", "baseline", "fused"),
        ("unix", "shared-memory", "fused"),
        ("unix", "fused", "qkv"),
        ("unix", "fused", "down"),
        ("unix", "fused", "scores"),
    ],
)
def test_an_operation_of_another_granularity_is_refused(
    workers: Callable[[str, str], RealWorker], transport: str, stage: str, name: str
) -> None:
    calls = {**CALLS, "fused": (Call("fused_layer", 0), (f32(1, TOKENS, CONFIG.hidden_size),))}
    call, inputs = calls[name]
    worker = workers(transport, stage)
    with still_serving(worker), worker.raw() as client:
        client.greet()
        if isinstance(client, RawSeqpacket):
            client.bring_arena()
        fields = Wire(transport == "unix").request(call, *inputs)
        assert_refused(client.exchange({**fields, "session": client.session}), "operation")


# What only one route can carry -------------------------------------------------------------------------


def test_a_request_whose_sender_has_gone_is_of_no_consequence(
    workers: Callable[[str], RealWorker],
) -> None:
    for transport in TRANSPORTS:
        worker = workers(transport)
        with still_serving(worker):
            for _ in range(5):
                with worker.raw() as client:
                    client.greet()
                    client.send(packed(client.request("ping")))


def test_a_flood_of_refused_messages_does_not_make_the_worker_grow(
    workers: Callable[[str], RealWorker],
) -> None:
    worker = workers("tcp")

    def resident() -> int:
        fields = Path(f"/proc/{worker.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    message = packed({"operation": ["x" * 1000] * 200, "inputs": [{"a": "y" * 100}] * 500})
    with worker.raw() as client:
        for _ in range(200):
            assert "error" in client.exchange(message)
        before = resident()
        for _ in range(800):
            client.exchange(message)
        assert resident() - before < 4 << 20
