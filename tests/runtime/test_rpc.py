"""The trusted side under attack by its worker: whatever is answered, a typed error within the deadline."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import STAGES, SplitError
from runtime.checkpoints import Checkpoint
from runtime.errors import (
    HandshakeError,
    ProtocolError,
    WorkerDied,
    WorkerError,
    WorkerRefused,
    WorkerTimeout,
)
from runtime.messages import PROTOCOL_VERSION
from runtime.tensors import DTYPES
from tests.runtime.peers import (
    PATIENCE_S,
    FakeSeqpacketWorker,
    FakeWorker,
    Fields,
    Footprint,
    Reply,
    fake_worker,
    nested,
    packed,
)

EXAMPLES = 500
PROMPT = [1, 2, 3]
AT_ONCE_S = 3.0  # for what takes milliseconds, on a busy machine
MESSAGE_BYTES = 64 * 1024


@pytest.fixture(params=["baseline", "shared-memory", "fused", "bf16", "resident"])
def stage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fake(stage: str, checkpoint: Checkpoint, tmp_path: Path) -> Iterator[FakeWorker]:
    with fake_worker(stage, checkpoint, tmp_path) as fake:
        yield fake


def calls_of(stage: str) -> int:
    return 8 if STAGES[stage].granularity == "operation" else 3


# Replies --------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Nonsense:
    """A right reply to one call of a forward pass, spoiled."""

    what: str
    spoil: Callable[[Fields], Reply]

    def __repr__(self) -> str:
        return self.what


VALUES: dict[str, Any] = {
    "nil": None,
    "true": True,
    "minus one": -1,
    "a number": 7,
    "a fraction": 0.5,
    "minus a fraction": -0.5,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "not a number": math.nan,
    "a huge number": 2**64 - 1,
    "a huge fraction": 1e308,
    "text": "nonsense",
    "long text": "x" * 9000,
    "bytes": bytes(8),
    "a list": [1],
    "a deep list": nested(400),
    "a deeper list": nested(1015),
    "a map": {"dtype": 1},
    "an extension": msgpack.ExtType(9, b"x"),
}
RIGHT = {
    "sequence": ("a number",),
    "outputs": (),
    "deserialize_s": (),
    "device_s": (),
    "serialize_s": (),
    "payload_copies": ("a number",),
}


@st.composite
def nonsense(draw: st.DrawFn, shared: bool) -> Nonsense:
    kinds = [bad_field, missing_field, bad_count, bad_message, bad_refusal, bad_time]
    if not shared:  # else the request names the places, and the reply no outputs
        kinds.append(bad_output)
    return draw(draw(st.sampled_from(kinds))(shared))


@st.composite
def bad_field(draw: st.DrawFn, shared: bool) -> Nonsense:
    field = draw(st.sampled_from(sorted(RIGHT)))
    what = draw(st.sampled_from(sorted(set(VALUES) - set(RIGHT[field]))))
    value: Any = VALUES[what]
    if field.endswith("_s") and what == "a fraction":
        value = 50.0  # longer than the round trip
    if field == "sequence" and draw(st.booleans()):
        step = draw(st.sampled_from((-1, 1, 2**32, 2**62)))
        return Nonsense(
            f"sequence off by {step}", lambda r: {**r, "sequence": r["sequence"] + step}
        )
    return Nonsense(f"{field} {what}", lambda reply: {**reply, field: value})


@st.composite
def missing_field(draw: st.DrawFn, shared: bool) -> Nonsense:
    field = draw(st.sampled_from(sorted(RIGHT)))

    def spoil(reply: Fields) -> Fields:
        return {key: value for key, value in reply.items() if key != field}

    return Nonsense(f"no {field}", spoil)


@st.composite
def bad_time(draw: st.DrawFn, shared: bool) -> Nonsense:
    field = draw(st.sampled_from([field for field in sorted(RIGHT) if field.endswith("_s")]))
    wrong = st.floats(1.0, allow_infinity=True) | st.floats(max_value=-1e-300) | st.just(math.nan)
    value = draw(wrong)
    return Nonsense(f"{field} {value}", lambda reply: {**reply, field: value})


@st.composite
def bad_output(draw: st.DrawFn, shared: bool) -> Nonsense:
    part = draw(st.sampled_from(("dtype", "shape", "shape", "payload", "missing", "other")))
    position = draw(st.integers(0, 2))

    def changing(change: Callable[[Any], object]) -> Callable[[Fields], Reply]:
        def spoil(reply: Fields) -> Fields:
            outputs: list[object] = [dict(output) for output in reply["outputs"]]
            index = position % len(outputs)
            outputs[index] = change(outputs[index])
            return {**reply, "outputs": outputs}

        return spoil

    if part == "missing":
        field = draw(st.sampled_from(("dtype", "shape", "payload")))
        keep = {"dtype", "shape", "payload"} - {field}
        return Nonsense(
            f"output without {field}", changing(lambda x: {key: x[key] for key in keep})
        )
    if part == "other":
        what = draw(st.sampled_from(sorted(VALUES)))
        return Nonsense(f"output {what}", changing(lambda x: VALUES[what]))
    if part == "dtype":
        what = draw(st.sampled_from((*VALUES, *DTYPES, "float64")))

        def retype(output: Fields) -> Fields:
            value = VALUES.get(what, what)
            other = "int64" if value == output["dtype"] else value
            return {**output, "dtype": other}

        return Nonsense(f"output of dtype {what}", changing(retype))
    if part == "payload":
        wrong = sorted(set(VALUES) - {"bytes"})
        what = draw(st.sampled_from((*wrong, "short", "overlong", "empty")))

        def repay(output: Fields) -> Fields:
            right = output["payload"]
            other = {"short": right[:-1], "overlong": right + b"\0", "empty": b""}
            return {**output, "payload": other.get(what, VALUES.get(what))}

        return Nonsense(f"output with payload {what}", changing(repay))
    kind = draw(st.sampled_from(("longer", "shorter", "turned", "deeper", "value", "odd")))
    amount = draw(st.sampled_from((1, 64, 2**31, 2**62)))
    odd = draw(st.sampled_from(([], [0], [-1], [2**63], [2**64 - 1] * 4, [1] * 5, [True], [1.0])))
    what = draw(st.sampled_from(sorted(VALUES)))

    def reshape(output: Fields) -> Fields:
        shape = list(output["shape"])
        shapes: dict[str, Any] = {
            "longer": [*shape[:-1], shape[-1] + amount],
            "shorter": [*shape[:-1], shape[-1] - 1],
            "turned": [*shape[:-2], shape[-1], shape[-2] + (shape[-1] == shape[-2])],
            "deeper": [1, *shape],
            "value": VALUES[what],
            "odd": odd,
        }
        return {**output, "shape": shapes[kind]}

    return Nonsense(f"output of shape {kind} {what} {amount} {odd}", changing(reshape))


@st.composite
def bad_count(draw: st.DrawFn, shared: bool) -> Nonsense:
    kind = draw(st.sampled_from(("one more", "nine", "thousands") + (() if shared else ("none",))))

    def spoil(reply: Fields) -> Fields:
        first = next(iter(reply["outputs"]), {"dtype": "float32", "shape": [1], "payload": 0})
        more = {"none": [], "one more": [*reply["outputs"], first]}
        small = {**first, "payload": 0}
        return {**reply, "outputs": more.get(kind, [small] * (9 if kind == "nine" else 1000))}

    return Nonsense(f"{kind} outputs", spoil)


@st.composite
def bad_message(draw: st.DrawFn, shared: bool) -> Nonsense:
    kind = draw(st.sampled_from(("cut", "extended", "random", "deep", "text", "huge", "empty")))
    part = draw(st.floats(0, 1, exclude_max=True))
    noise = draw(st.binary(min_size=1, max_size=60))
    depth = draw(st.integers(1, 10_000))
    kinds: dict[str, Callable[[Fields], Reply]] = {
        "cut": lambda reply: packed(reply)[: int(len(packed(reply)) * part)],
        "extended": lambda reply: packed(reply) + noise,
        "random": lambda _: noise,
        "deep": lambda _: b"\x91" * depth + b"\xc0",
        "text": lambda _: b"mapped",
        "huge": lambda reply: packed(reply) + bytes(MESSAGE_BYTES),
        "empty": lambda _: b"",
    }
    return Nonsense(f"{kind} {part} {noise!r} {depth}", kinds[kind])


@st.composite
def bad_refusal(draw: st.DrawFn, shared: bool) -> Nonsense:
    error: Any = {"kind": "protocol", "field": "inputs", "problem": "is wrong"}
    how = draw(st.sampled_from(("whole", "kind", "field", "problem", "missing", "right")))
    what = draw(st.sampled_from(sorted(VALUES)))
    missing = draw(st.sampled_from(("kind", "field", "problem")))
    if how == "whole":
        error = VALUES[what]
    elif how == "missing":
        del error[missing]
    elif how != "right":
        error[how] = VALUES[what]
    return Nonsense(f"refusal: {how} {what} {missing}", lambda _: {"error": error})


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"], indirect=True)
def test_every_malformed_reply_is_a_typed_error_and_the_session_is_over(
    fake: FakeWorker, stage: str
) -> None:
    fake.open().close()
    before = Footprint.of()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(nonsense(stage != "baseline"), st.integers(0, calls_of(stage) - 1))
    def attack(reply: Nonsense, call: int) -> None:
        right = fake.reply

        def answer(request: Fields) -> Reply:
            return reply.spoil(right(request)) if fake.calls == call else right(request)

        fake.on_call = answer
        llama = fake.open()
        started = time.monotonic()
        try:
            with pytest.raises(SplitError) as caught:
                llama.forward(PROMPT)
            assert time.monotonic() - started < AT_ONCE_S
            assert len(str(caught.value)) < 20_000
            with pytest.raises(WorkerError):
                llama.forward(PROMPT)
        finally:
            llama.close()

    attack()
    assert Footprint.of() == before


def test_the_replies_that_are_spoiled_are_right_before(fake: FakeWorker, stage: str) -> None:
    llama = fake.open()
    try:
        llama.forward(PROMPT)
        assert llama.last_trace.totals()["rpc_count"] == fake.calls == calls_of(stage)
    finally:
        llama.close()


def test_a_worker_that_never_answers_is_a_timeout_within_the_deadline(fake: FakeWorker) -> None:
    fake.on_call = lambda request: None
    llama = fake.open(timeout_s=0.5)
    try:
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            llama.forward(PROMPT)
        assert 0.4 < time.monotonic() - started < 1.5
        with pytest.raises(WorkerError):
            llama.forward(PROMPT)
        with pytest.raises(WorkerError):
            llama.forward([*PROMPT] * 100)
    finally:
        llama.close()


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"], indirect=True)
def test_signals_do_not_put_off_the_deadline(fake: FakeWorker, stage: str) -> None:
    handled = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
    undisturbed = threading.Event()

    def answer(request: Fields) -> Reply:
        # From here on the trusted side waits, and is disturbed again and again.
        for _ in range(10):
            time.sleep(0.15)
            os.kill(os.getpid(), signal.SIGUSR1)
        undisturbed.set()
        return None

    fake.on_call = answer
    llama = fake.open(timeout_s=0.4)
    try:
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            llama.forward(PROMPT)
        assert time.monotonic() - started < 1.2
        assert handled
    finally:
        undisturbed.wait(PATIENCE_S)
        llama.close()
        signal.signal(signal.SIGUSR1, previous)


def test_an_interrupted_call_is_never_taken_up_again(fake: FakeWorker) -> None:
    def answer(request: Fields) -> Reply:
        os.kill(os.getpid(), signal.SIGINT)
        return None

    fake.on_call = answer
    llama = fake.open()
    try:
        with pytest.raises(KeyboardInterrupt):
            llama.forward(PROMPT)
        fake.on_call = fake.reply
        with pytest.raises(WorkerError):
            llama.forward(PROMPT)
    finally:
        llama.close()


def test_an_answer_to_an_earlier_call_is_not_taken_for_this_one(fake: FakeWorker) -> None:
    earlier: list[bytes] = []

    def answer(request: Fields) -> Reply:
        earlier.append(packed(fake.reply(request)))
        return earlier[0]

    fake.on_call = answer
    llama = fake.open()
    try:
        with pytest.raises(ProtocolError):
            llama.forward(PROMPT)
    finally:
        llama.close()


def test_a_second_answer_to_one_call_is_a_typed_error(fake: FakeWorker, stage: str) -> None:
    def answer(request: Fields) -> Reply:
        raw = packed(fake.reply(request))
        return [raw, raw]

    fake.on_call = answer
    llama = fake.open()
    try:
        with pytest.raises((ProtocolError, WorkerDied)):
            llama.forward(PROMPT)
    finally:
        llama.close()


@pytest.mark.parametrize("stage", ["baseline"], indirect=True)
def test_a_last_answer_of_several_parts_is_refused(fake: FakeWorker, stage: str) -> None:
    def answer(request: Fields) -> Reply:
        raw = packed(fake.reply(request))
        return [raw, b"more"] if request["operation"] == "lm_head" else raw

    fake.on_call = answer
    llama = fake.open()
    try:
        with pytest.raises(ProtocolError, match="message"):
            llama.forward(PROMPT)
    finally:
        llama.close()


@pytest.mark.parametrize(
    ("kind", "error"),
    [("protocol", WorkerRefused), ("handshake", HandshakeError), ("failure", WorkerError)],
)
def test_a_refusal_is_an_error_of_its_kind_and_says_what_the_worker_said(
    fake: FakeWorker, kind: str, error: type[SplitError]
) -> None:
    fake.on_call = lambda request: {
        "error": {"kind": kind, "field": "inputs[7]", "problem": "is blue"}
    }
    llama = fake.open()
    try:
        with pytest.raises(error, match=r"inputs\[7\]: is blue") as caught:
            llama.forward(PROMPT)
        assert type(caught.value) is error
    finally:
        llama.close()


def test_the_callers_logits_are_out_of_the_workers_reach(
    checkpoint: Checkpoint, fake: FakeWorker
) -> None:
    llama = fake.open()
    try:
        logits = llama.forward(PROMPT)
        kept = logits.clone()
        llama.forward([5] * 9)
        assert logits.equal(kept)
    finally:
        llama.close()


# Handshakes -----------------------------------------------------------------------------------------


def hello_with(**changes: Any) -> Callable[[FakeWorker, Fields], Reply]:
    def spoil(fake: FakeWorker, request: Fields) -> Reply:
        answer = fake.greet(request)
        return {**answer, "hello": {**answer["hello"], **changes}}

    return spoil


def config_with(**changes: Any) -> Callable[[FakeWorker, Fields], Reply]:
    def spoil(fake: FakeWorker, request: Fields) -> Reply:
        answer = fake.greet(request)
        config = {**answer["hello"]["config"], **changes}
        return {**answer, "hello": {**answer["hello"], "config": config}}

    return spoil


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (hello_with(protocol=PROTOCOL_VERSION + 1), f"protocol: .*{PROTOCOL_VERSION + 1}"),
        (hello_with(protocol=0), "protocol: "),
        (hello_with(digest="0" * 64), "digest: "),
        (hello_with(dtype="float16"), "dtype: .*float16"),
        (hello_with(device="cuda"), "device: .*cuda"),
        (hello_with(granularity="whole"), "granularity: .*whole"),
        (hello_with(config={}), r"config\.[a-z_]+: "),
        (config_with(vocab_size=65), r"config\.vocab_size: .*65.*64"),
        (config_with(num_layers=2), r"config\.num_layers: .*2.*1"),
        (config_with(rms_norm_eps=math.nan), r"config\.rms_norm_eps: "),
        (config_with(rope={"rope_type": "linear"}), r"config\.rope: "),
        (config_with(more=1), r"config\.more: "),
        (config_with(vocab_size="x" * 4000), r"config\.vocab_size: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_worker_of_another_kind_is_refused_by_name(
    fake: FakeWorker, spoil: Callable[[FakeWorker, Fields], Reply], named: str
) -> None:
    fake.on_hello = lambda request: spoil(fake, request)
    with pytest.raises(HandshakeError, match=named) as caught:
        fake.open()
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize("value", ["x" * 50_000, nested(1015)], ids=["long", "deep"])
def test_a_configuration_of_no_bounds_is_refused_by_name(fake: FakeWorker, value: object) -> None:
    fake.on_hello = lambda request: config_with(vocab_size=value)(fake, request)
    with pytest.raises(ProtocolError, match=r"^config: ") as caught:
        fake.open()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["protocol", "config", "digest", "dtype", "device", "granularity"])
@pytest.mark.parametrize("what", [None, *sorted(VALUES)])
def test_a_malformed_hello_is_a_typed_error_that_names_the_field(
    checkpoint: Checkpoint, name: str, what: str | None
) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")

    def answer(request: Fields) -> Reply:
        right = fake.greet(request)
        hello = {**right["hello"], name: VALUES.get(what or "")}
        if what is None:
            del hello[name]
        return {**right, "hello": hello}

    fake.on_hello = answer
    with pytest.raises((ProtocolError, HandshakeError), match=f"^{name}"):
        fake.open()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"hello": None},
        {"hello": []},
        {"hello": {}},
        b"",
        b"\xc1",
        b"\x91" * 1000,
        bytes(MESSAGE_BYTES + 1),
        {"error": 1},
        {"error": {"kind": "none", "field": "", "problem": ""}},
    ],
    ids=lambda answer: f"{answer!r:.30}",
)
def test_an_answer_to_the_hello_that_is_none_is_a_typed_error(
    fake: FakeWorker, answer: Reply
) -> None:
    fake.on_hello = lambda request: answer
    with pytest.raises(SplitError):
        fake.open()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (name, what)
        for name, right in (("session", int), ("worker", dict))
        for what in (None, *sorted(VALUES))
        if what is None or type(VALUES[what]) is not right
    ],
)
def test_a_session_or_a_worker_of_the_wrong_type_is_refused(
    checkpoint: Checkpoint, name: str, what: str | None
) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")

    def answer(request: Fields) -> Reply:
        right = {**fake.greet(request), name: VALUES.get(what or "")}
        if what is None:
            del right[name]
        return right

    fake.on_hello = answer
    with pytest.raises(ProtocolError, match=name):
        fake.open()


def test_a_worker_that_does_not_answer_the_hello_is_a_timeout(fake: FakeWorker) -> None:
    fake.on_hello = lambda request: None
    started = time.monotonic()
    with pytest.raises(WorkerTimeout):
        fake.open(timeout_s=0.4)
    assert time.monotonic() - started < 1.5


def test_failed_handshakes_leave_nothing_behind(fake: FakeWorker) -> None:
    fake.on_hello = lambda request: {}

    def attempt() -> None:
        with pytest.raises(ProtocolError):
            fake.open()

    attempt()
    before = Footprint.of()
    for _ in range(5):
        attempt()
    assert Footprint.of() == before
