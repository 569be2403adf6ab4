"""A real worker process under attack: every malformed message is refused by name, and it serves on."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.operations import Call, linear_shapes, output_specs
from runtime.tensors import DTYPES, TensorSpec
from runtime.transports.arena import aligned
from tests.runtime.peers import (
    ARENA_BYTES,
    Fields,
    Footprint,
    RawSeqpacket,
    RawZmq,
    RealWorker,
    free_port,
    nested,
    packed,
    sealed_memory,
    tiny,
    wait_until,
)

EXAMPLES = 500
TRANSPORTS = ("ipc", "tcp", "unix")
PROMPT = list(range(40))

SESSION = "<the session of the conversation>"
TOKENS = 8
CONFIG = tiny().config
LINEAR = linear_shapes(CONFIG)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RealWorker]]:
    """One worker per transport and stage for all tests; a test that loses one spoils no other test."""
    running: dict[tuple[str, str], RealWorker] = {}
    count = itertools.count()

    def worker(transport: str, stage: str | None = None) -> RealWorker:
        stage = stage or ("shared-memory" if transport == "unix" else "baseline")
        found = running.get((transport, stage))
        if found is None or not found.alive:
            if found is not None:
                found.close()
            address = f"{tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp())}/{next(count)}"
            if transport == "tcp":
                address = f"127.0.0.1:{free_port()}"
            found = running[transport, stage] = RealWorker(stage, f"{transport}://{address}")
        return found

    yield worker
    for one in running.values():
        one.close()


def logits_of(worker: RealWorker) -> torch.Tensor:
    with worker.launch() as llama:
        assert llama.worker_info["pid"] == worker.process.pid
        return llama.forward(PROMPT)


@contextlib.contextmanager
def still_serving(worker: RealWorker) -> Iterator[None]:
    """The same process computes the same thing after whatever happens inside."""
    before = logits_of(worker)
    held = Footprint.of(worker.process.pid)
    yield
    assert worker.alive, "the worker's process ended"
    assert torch.equal(logits_of(worker), before)
    assert wait_until(lambda: Footprint.of(worker.process.pid) == held), (
        f"{held} became {Footprint.of(worker.process.pid)}"
    )


def assert_refused(answer: Fields, field: str, kinds: tuple[str, ...] = ("protocol",)) -> None:
    """The answer is a typed refusal that names ``field``, a regular expression."""
    assert set(answer) == {"error"}, f"was answered with results: {answer!r:.200}"
    error = answer["error"]
    assert set(error) == {"kind", "field", "problem"}
    assert error["kind"] in kinds, error
    assert re.fullmatch(field, error["field"]), error
    assert error["problem"]


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
        # A huge dimension is a number, but nothing is as long: either may be named, or its place.
        return Malformed(f"{name} of {shape}", fields, path + "(shape|payload)")
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


# What only one road can carry -------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[b"a", b"b"], [b"", b""], [b"a"] * 100], ids=len)
def test_a_message_of_several_parts_is_refused(
    workers: Callable[[str], RealWorker], parts: list[bytes]
) -> None:
    worker = workers("tcp")
    with still_serving(worker), worker.raw() as client:
        assert isinstance(client, RawZmq)
        client.socket.setsockopt(zmq.RCVTIMEO, 3000)
        client.socket.send_multipart(parts)
        assert_refused(msgpack.unpackb(client.receive()), "message")


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


@pytest.fixture
def memory_worker(workers: Callable[[str], RealWorker]) -> RealWorker:
    return workers("unix")


@pytest.fixture
def memory_client(memory_worker: RealWorker) -> Iterator[RawSeqpacket]:
    """The client of that worker, which holds nothing more for it afterwards."""
    with still_serving(memory_worker), memory_worker.raw() as client:
        assert isinstance(client, RawSeqpacket)
        client.greet()
        yield client


def embed(client: RawSeqpacket) -> Fields:
    tensor = {"dtype": "int64", "shape": [1, 8], "payload": 0}
    return client.exchange(client.request("embedding", [tensor], outputs=[64]))


def unsealed_memory() -> int:
    descriptor = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, ARENA_BYTES)
    return descriptor


def pipe_end() -> int:
    kept, other = os.pipe()
    os.close(other)
    return kept


BAD_DESCRIPTORS: Mapping[str, Callable[[], int]] = {
    "unsealed memory": unsealed_memory,
    "a pipe": pipe_end,
    "a file": lambda: os.open(__file__, os.O_RDONLY),
    "a folder": lambda: os.open(Path(__file__).parent, os.O_RDONLY),
    "a device": lambda: os.open("/dev/zero", os.O_RDWR),
    "empty memory": lambda: sealed_memory(0),
    "memory that does not exist yet": lambda: sealed_memory(1 << 30, sparse=True),
}


@pytest.mark.parametrize("kind", BAD_DESCRIPTORS)
def test_a_descriptor_of_anything_but_whole_sealed_memory_is_refused(
    memory_client: RawSeqpacket, kind: str
) -> None:
    descriptor = BAD_DESCRIPTORS[kind]()
    try:
        assert re.fullmatch(rb"refused: arena.*", memory_client.bring([descriptor]), re.DOTALL)
    finally:
        os.close(descriptor)
    assert_refused(embed(memory_client), "arena")
    memory_client.bring_arena()
    assert embed(memory_client)["sequence"] == 2


def test_without_an_arena_nothing_is_computed(memory_client: RawSeqpacket) -> None:
    assert_refused(embed(memory_client), "arena")


@pytest.mark.parametrize("count", [2, 3, 50])
def test_of_several_descriptors_none_is_kept(memory_client: RawSeqpacket, count: int) -> None:
    good = sealed_memory(ARENA_BYTES)
    bad = pipe_end()
    try:
        memory_client.bring([bad, *[good] * (count - 1)])
        memory_client.bring([good] * count)
    finally:
        os.close(good)
        os.close(bad)


@pytest.mark.parametrize("length", [64 * 1024 + 1, 150_000])
def test_a_descriptor_in_an_oversized_message_is_not_kept(
    memory_client: RawSeqpacket, length: int
) -> None:
    good = sealed_memory(ARENA_BYTES)
    try:
        for _ in range(3):
            memory_client.bring([good], bytes(length))
    finally:
        os.close(good)


def test_an_empty_message_is_refused_and_ends_nothing(memory_client: RawSeqpacket) -> None:
    assert_refused(memory_client.exchange(b""), "message")
    assert memory_client.exchange(memory_client.request("ping"))["sequence"] == 1


def test_a_last_message_that_is_empty_does_not_end_the_worker(memory_client: RawSeqpacket) -> None:
    memory_client.send(b"")  # and then comes the end, before it may have been read


def test_an_arena_replaced_many_times_leaves_one(
    memory_client: RawSeqpacket, memory_worker: RealWorker
) -> None:
    for _ in range(20):
        memory_client.bring_arena()
        embed(memory_client)
    maps = Path(f"/proc/{memory_worker.process.pid}/maps").read_text()
    assert maps.count("memfd:") == 1


def test_a_result_computed_over_its_own_input_is_refused(memory_client: RawSeqpacket) -> None:
    memory_client.bring_arena()
    assert memory_client.memory is not None
    memory_client.memory[:512] = struct.pack("64q", *[511] * 64)
    tensor = {"dtype": "int64", "shape": [1, 64], "payload": 0}
    answer = memory_client.exchange(memory_client.request("embedding", [tensor], outputs=[0]))
    assert_refused(answer, r"(outputs|inputs).*")


def test_token_ids_that_change_while_they_are_used_do_not_end_the_worker(
    memory_client: RawSeqpacket,
) -> None:
    tokens = 16 * CONFIG.max_positions
    result = aligned(8 * tokens)
    memory_client.bring_arena(result + 4 * tokens * CONFIG.hidden_size)
    memory = memory_client.memory
    assert memory is not None
    tensor = {"dtype": "int64", "shape": [16, CONFIG.max_positions], "payload": 0}
    first, last = slice(result, result + 4), slice(8 * (tokens - 1), 8 * tokens)
    good, bad = bytes(8), struct.pack("q", 2**40)
    for _ in range(3):
        memory[last], memory[first] = good, bytes(4)
        memory_client.send(packed(memory_client.request("embedding", [tensor], outputs=[result])))
        # The first row's arrival tells that the ids were found good and are being used.
        assert wait_until(lambda: memory[first] != bytes(4))
        memory[last] = bad
        assert "sequence" in msgpack.unpackb(memory_client.receive())


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
