"""ZeroMQ and msgpack: bytes in one message, and connections that are never opened again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from runtime import SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.errors import InputError, WorkerDied, WorkerError, WorkerTimeout
from runtime.transports import zmq_msgpack
from tests.runtime.peers import (
    FakeWorker,
    Fields,
    Footprint,
    RawZmq,
    RealWorker,
    Reply,
    assert_refused,
    fake_worker,
    free_port,
    still_serving,
    tiny,
)

AT_ONCE_S = 2.0
PROMPT = [3, 1, 4, 1, 5]


def test_a_listener_that_speaks_another_language_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        before = Footprint.of()
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            SplitLlama.launch(tiny(), endpoint=f"tcp://127.0.0.1:{port}", start_timeout_s=0.5)
        assert time.monotonic() - started < AT_ONCE_S
        assert Footprint.of() == before


def test_a_worker_killed_under_a_remote_client_is_noticed_at_once() -> None:
    with (
        RealWorker("baseline", f"tcp://127.0.0.1:{free_port()}") as worker,
        worker.launch() as llama,
    ):
        llama.forward(PROMPT)
        worker.process.kill()
        started = time.monotonic()
        with pytest.raises(WorkerDied):
            llama.forward(PROMPT)
        assert time.monotonic() - started < AT_ONCE_S


@pytest.mark.parametrize("waited_s", [0.0, 0.5])
def test_whoever_takes_the_port_of_a_worker_that_died_receives_nothing(waited_s: float) -> None:
    """Token ids cross in clear, and ZeroMQ connects again by itself."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with (
        RealWorker("baseline", endpoint) as worker,
        worker.launch() as llama,
        zmq.Context() as context,
        context.socket(zmq.REP) as newcomer,
    ):
        llama.forward([1, 2, 3])
        worker.process.kill()
        worker.process.wait()
        newcomer.setsockopt(zmq.LINGER, 0)
        newcomer.bind(endpoint)
        time.sleep(waited_s)
        with pytest.raises(WorkerDied):
            llama.forward([1, 2, 3])
        with pytest.raises(WorkerError):
            llama.forward([1, 2, 3])
        assert not newcomer.poll(500)


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


@pytest.fixture
def fake(checkpoint: Checkpoint, tmp_path: Path) -> Iterator[FakeWorker]:
    with fake_worker("baseline", checkpoint, tmp_path) as fake:
        yield fake


def test_a_prompt_too_large_for_a_message_spoils_no_later_call(
    fake: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = fake.open()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(zmq_msgpack, "_MAX_TENSOR_BYTES", 1000)
            with pytest.raises(InputError, match="prompt"):
                llama.forward(PROMPT * 50)
        right = fake.reply

        def answer(request: Fields) -> Reply:
            # As a worker does: the next number, and no other.
            turns = range(1, 1000)
            assert request["sequence"] in turns
            expected = len(seen) + 1
            seen.append(request["sequence"])
            if request["sequence"] != expected:
                return {"error": {"kind": "protocol", "field": "sequence", "problem": "skipped"}}
            return right(request)

        seen: list[int] = []
        fake.on_call = answer
        llama.forward(PROMPT)
    finally:
        llama.close()
