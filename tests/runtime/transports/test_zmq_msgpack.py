"""ZeroMQ and msgpack: bytes in one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from runtime.checkpoints import Checkpoint
from runtime.errors import InputError
from runtime.transports import zmq_msgpack
from tests.runtime.peers import (
    FakeWorker,
    Fields,
    RawZmq,
    RealWorker,
    Reply,
    assert_refused,
    fake_worker,
    still_serving,
)

AT_ONCE_S = 2.0
PROMPT = [3, 1, 4, 1, 5]


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
