"""Tensors beside the message: which frames there must be, how long each, and that nothing is copied on the way."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
import zmq

from runtime import SplitLlama
from runtime.errors import ProtocolError, WorkerDied
from runtime.operations import Call, output_specs
from runtime.tensors import DTYPES, TensorSpec
from runtime.transports.base import ReceiveTimeout
from runtime.transports.endpoints import Endpoint
from runtime.transports.zmq_frames import SMALL_BYTES, FramesClient, FramesServer
from tests.runtime.models import serve_in_thread
from tests.runtime.peers import (
    PATIENCE_S,
    FakeZmqWorker,
    Fields,
    RawZmq,
    RealWorker,
    Reply,
    fake_worker,
    free_port,
    packed,
    tiny,
)

STAGE = "fused-tcp"
PROMPT = [3, 1, 4, 1, 5]
CONFIG = tiny().config


def filled(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).to(dtype).view(shape)


# The two ends --------------------------------------------------------------------------------------------


class Ends:
    """A client and a server, in one thread."""

    def __init__(self, folder: Path) -> None:
        endpoint = Endpoint("ipc", f"{folder}/e")
        self.server, self.client = FramesServer(endpoint), FramesClient(endpoint)
        self.client.set_timeout(PATIENCE_S)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    pair = Ends(tmp_path)
    yield pair
    pair.close()


def arrives(ends: Ends, *tensors: torch.Tensor) -> list[torch.Tensor]:
    payloads = [ends.client.pack(tensor) for tensor in tensors]
    ends.client.send(b"message")
    while True:
        try:
            assert bytes(ends.server.receive()) == b"message"
            break
        except ReceiveTimeout:
            continue
    ends.server.expect(len(tensors))
    return [
        ends.server.unpack("x", TensorSpec.of(tensor), payload)
        for tensor, payload in zip(tensors, payloads, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_tensors_of_every_type_and_size_arrive_as_they_were(ends: Ends, dtype: torch.dtype) -> None:
    tensors = [filled(*shape, dtype=dtype) for shape in ((1,), (3, 7), (2, 64, 129), (1, 9, 9, 9))]
    assert all(map(torch.equal, arrives(ends, *tensors), tensors))


def test_what_is_large_is_copied_nowhere_and_what_is_small_once_a_side(ends: Ends) -> None:
    large, small = filled(SMALL_BYTES // 4), filled(SMALL_BYTES // 4 - 1)
    arrives(ends, large)
    assert (ends.client.payload_copies, ends.server.payload_copies) == (0, 0)
    ends.server.send(b"")
    ends.client.receive()
    arrives(ends, small)
    assert (ends.client.payload_copies, ends.server.payload_copies) == (1, 1)


def test_a_tensor_begins_where_its_elements_may(ends: Ends) -> None:
    """ZeroMQ lets short frames begin at any byte."""
    tensors = [filled(n) for n in (1, 3, 5, 700, SMALL_BYTES // 4, 100_000)]
    for arrived in arrives(ends, *tensors):
        assert arrived.data_ptr() % arrived.element_size() == 0


def test_what_was_packed_for_a_call_that_was_interrupted_does_not_go_with_the_next(
    ends: Ends,
) -> None:
    ends.client.pack(filled(8))  # and then comes Ctrl-C
    ends.client.reserve([])
    (arrived,) = arrives(ends, filled(5))
    assert arrived.equal(filled(5))


@pytest.mark.parametrize("payload", [1, -1, 7, 2**62, True, b"", b"12345678"], ids=repr)
def test_a_number_that_is_not_the_next_frames_is_refused(ends: Ends, payload: Any) -> None:
    ends.client.pack(filled(2))
    ends.client.send(b"message")
    ends.server.receive()
    with pytest.raises(ProtocolError, match="x: must be 0"):
        ends.server.unpack("x", TensorSpec(torch.float32, (2,)), payload)


def test_no_frame_stands_for_two_tensors(ends: Ends) -> None:
    arrives(ends, filled(2))
    with pytest.raises(ProtocolError, match="must be 1"):
        ends.server.unpack("x", TensorSpec(torch.float32, (2,)), 0)


def test_a_frame_of_another_length_is_refused(ends: Ends) -> None:
    ends.client.pack(filled(3))
    ends.client.send(b"message")
    ends.server.receive()
    for size in (1, 2, 4):
        with pytest.raises(ProtocolError, match=rf"x: has 12 bytes.*needs {4 * size}"):
            ends.server.unpack("x", TensorSpec(torch.float32, (size,)), 0)


# A whole stage -------------------------------------------------------------------------------------------


def test_it_computes_what_the_row_it_stands_beside_computes() -> None:
    ids = torch.arange(300)  # hidden states of more than SMALL_BYTES
    with serve_in_thread(tiny(), "fused") as other, serve_in_thread(tiny(), STAGE) as llama:
        assert llama.forward(ids).equal(other.forward(ids))
        assert (
            llama.last_trace.totals()["payload_copies"] == 6
        )  # ids, last state, logits: each side


# A hostile client ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker() -> Iterator[RealWorker]:
    with RealWorker(STAGE, f"tcp://127.0.0.1:{free_port()}") as running:
        yield running


@pytest.fixture
def raw(worker: RealWorker) -> Iterator[RawZmq]:
    with worker.raw() as client:
        assert isinstance(client, RawZmq)
        client.greet()
        yield client


def embedding(client: RawZmq, tokens: int = 8, **fields: Any) -> Fields:
    tensor = {"dtype": "int64", "shape": [1, tokens], "payload": 0, **fields}
    return client.request("embedding", [tensor])


IDS = struct.pack("8q", *range(8))


def exchange(
    client: RawZmq, message: Fields, frames: Sequence[bytes]
) -> tuple[Fields, list[bytes]]:
    client.socket.send_multipart([packed(message), *frames])
    answer, *results = client.socket.recv_multipart()
    return msgpack.unpackb(answer), results


def test_a_right_request_is_answered_with_frames(raw: RawZmq) -> None:
    answer, (result,) = exchange(raw, embedding(raw), [IDS])
    assert answer["outputs"][0]["payload"] == 0
    assert len(result) == 8 * CONFIG.hidden_size * 4


WRONG_FRAMES: dict[str, list[bytes]] = {
    "none": [],
    "one too many": [IDS, IDS],
    "an empty one too many": [IDS, b""],
    "far too many": [IDS] * 40,
    "an empty one": [b""],
    "a short one": [IDS[:-1]],
    "a long one": [IDS + b"\0"],
}


@pytest.mark.parametrize("what", WRONG_FRAMES)
def test_frames_that_are_not_those_of_the_request_are_refused_and_end_nothing(
    worker: RealWorker, raw: RawZmq, what: str
) -> None:
    answer, results = exchange(raw, embedding(raw), WRONG_FRAMES[what])
    assert answer["error"]["kind"] == "protocol"
    assert answer["error"]["field"] in ("message", "inputs[0].payload")
    assert results == []
    raw.greet()
    answer, results = exchange(raw, embedding(raw), [IDS])
    assert len(results) == 1


def test_a_hello_brings_no_frames(raw: RawZmq) -> None:
    answer, _ = exchange(raw, {"hello": raw._hello}, [IDS])
    assert answer["error"]["field"] == "message"


def test_a_shape_that_the_frame_does_not_fill_is_refused(raw: RawZmq) -> None:
    answer, _ = exchange(raw, embedding(raw, shape=[1, 2**40]), [IDS])
    assert answer["error"]["kind"] == "protocol"


# A hostile worker ----------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeZmqWorker]:
    with fake_worker(STAGE, tiny(), tmp_path) as worker:
        assert isinstance(worker, FakeZmqWorker)
        yield worker


def results_of(fake: FakeZmqWorker, request: Fields) -> tuple[Fields, list[bytes]]:
    """A right reply, and its frames."""
    reply = fake.reply(request)
    call = Call(request["operation"], request["layer"], tuple(request["modules"]))
    inputs = [TensorSpec(DTYPES[x["dtype"]], tuple(x["shape"])) for x in request["inputs"]]
    specs = output_specs(CONFIG, torch.float32, call, inputs)
    for number, output in enumerate(reply["outputs"]):
        output["payload"] = number
    return reply, [bytes(spec.nbytes) for spec in specs]


def test_an_honest_fake_is_believed(fake: FakeZmqWorker) -> None:
    def answer(request: Fields) -> Reply:
        reply, frames = results_of(fake, request)
        return [packed(reply), *frames]

    fake.on_call = answer
    with fake.open() as llama:
        assert llama.forward(PROMPT).eq(0).all()


WRONG_RESULTS: dict[str, Any] = {
    "none": lambda frames: [],
    "one too many": lambda frames: [*frames, b"x"],
    "a thousand": lambda frames: frames * 1000,
    "a short one": lambda frames: [frames[0][:-4]],
    "a long one": lambda frames: [frames[0] + bytes(4)],
    "an empty one": lambda frames: [b""],
}


@pytest.mark.parametrize("what", WRONG_RESULTS)
def test_frames_that_are_not_those_of_the_results_end_the_conversation(
    fake: FakeZmqWorker, what: str
) -> None:
    def answer(request: Fields) -> Reply:
        reply, frames = results_of(fake, request)
        return [packed(reply), *WRONG_RESULTS[what](frames)]

    fake.on_call = answer
    with fake.open() as llama:
        with pytest.raises(ProtocolError, match=r"message|outputs\[0\]"):
            llama.forward(PROMPT)
        assert llama._rpc.broken


def test_a_welcome_brings_no_frames(fake: FakeZmqWorker) -> None:
    fake.on_hello = lambda request: [packed(fake.greet(request)), b"x"]
    with pytest.raises(ProtocolError, match="message"):
        fake.open()


# Over tcp ------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_noticed_and_its_address_free_for_the_next() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    results = []
    for _ in range(2):
        with RealWorker(STAGE, endpoint) as worker, worker.launch() as llama:
            results.append(llama.forward(PROMPT))
            worker.process.kill()
            worker.process.wait()
            with pytest.raises(WorkerDied):
                llama.forward(PROMPT)
    assert results[0].equal(results[1])


def test_launched_here_it_is_reached_over_tcp() -> None:
    with (
        SplitLlama.launch(tiny(), STAGE, threads=1) as llama,
        serve_in_thread(tiny(), "fused") as other,
    ):
        assert llama.forward(PROMPT).equal(other.forward(PROMPT))


def test_a_client_that_sends_a_message_with_no_end_gets_no_further(worker: RealWorker) -> None:
    """Others are served meanwhile: nothing of it is a message yet."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as endless:
        endless.setsockopt(zmq.LINGER, 0)
        endless.connect(worker.endpoint)
        endless.send(b"", zmq.SNDMORE)
        for _ in range(1000):
            endless.send(b"x" * 100, zmq.SNDMORE)
        with worker.launch() as llama:
            assert llama.forward(PROMPT).isfinite().all()
