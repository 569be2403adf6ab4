"""Payload in shared memory: what may come with a message, and arenas that grow and are given back."""

from __future__ import annotations

import gc
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgpack
import pytest
import torch

from runtime import SplitError, SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.errors import (
    ArenaError,
    EndpointError,
    InputError,
    ProtocolError,
    WorkerDied,
    WorkerError,
)
from runtime.tensors import TensorSpec
from runtime.transports import shared_memory
from runtime.transports.arena import Slots, aligned
from runtime.transports.endpoints import listen
from runtime.transports.registry import connect
from tests.runtime.peers import (
    ARENA_BYTES,
    FakeSeqpacketWorker,
    Fields,
    Footprint,
    RawSeqpacket,
    RealWorker,
    Reply,
    arena_mappings,
    assert_refused,
    packed,
    sealed_memory,
    still_serving,
    tiny,
    wait_until,
)

AT_ONCE_S = 2.0


def test_a_listener_that_hangs_up_is_a_worker_that_died(tmp_path: Path) -> None:
    path = tmp_path / "hangs-up"
    with listen(str(path)) as listener:
        channel = connect(f"unix://{path}", "shared-memory")
        channel.close()
        listener.accept()[0].close()
        second = connect(f"unix://{path}", "shared-memory")
        second.close()
    started = time.monotonic()
    with pytest.raises((EndpointError, WorkerDied)):
        SplitLlama.launch(tiny(), "fused", endpoint=f"unix://{path}")
    assert time.monotonic() - started < AT_ONCE_S


def test_a_client_of_a_worker_whose_queue_is_full_is_not_left_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "_CONNECT_S", 0.2)
    path = tmp_path / "worker"
    with listen(str(path)):  # which takes nobody
        waiting = [connect(f"unix://{path}", "shared-memory") for _ in range(2)]
        started = time.monotonic()
        with pytest.raises(EndpointError, match="serves others"):
            connect(f"unix://{path}", "shared-memory")
        assert time.monotonic() - started < AT_ONCE_S
        for channel in waiting:
            channel.close()


PAGE = 4096


def spec(*shape: int, dtype: torch.dtype = torch.float32) -> TensorSpec:
    return TensorSpec(dtype, shape)


def test_a_longer_prompt_gets_a_new_arena_and_old_tensors_keep_theirs(
    checkpoint: Checkpoint,
) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")
    llama = fake.open()
    channel = llama._channel
    try:
        gc.collect()
        before = arena_mappings()
        channel.prepare(16 * PAGE)
        old = channel.empty(spec(8)).fill_(7.0)
        channel.prepare(16 * PAGE)
        channel.prepare(PAGE)
        assert arena_mappings() == before + 1, "there was room enough"

        channel.prepare(64 * PAGE)
        new = channel.empty(spec(8)).fill_(8.0)
        everything = channel.empty(spec(60 * PAGE // 4)).fill_(9.0)
        assert old.eq(7.0).all()
        assert new.eq(8.0).all()
        assert everything.eq(9.0).all()
        assert arena_mappings() == before + 2
        # The worker has the new one only: a place in the old one would be another there.
        with pytest.raises(InputError, match="arena"):
            channel.pack(old)

        del old
        gc.collect()
        assert arena_mappings() == before + 1
    finally:
        llama.close()


@pytest.mark.parametrize(("needed", "kept"), [(PAGE, 1), (4 * PAGE, 4), (16 * PAGE, 64)])
def test_what_one_long_prompt_needed_is_given_back_when_none_needs_it_any_more(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, needed: int, kept: int
) -> None:
    monkeypatch.setattr(shared_memory, "_KEPT_BYTES", PAGE)
    fake = FakeSeqpacketWorker(checkpoint, "fused")
    llama = fake.open()
    channel = llama._channel
    try:
        gc.collect()
        before = arena_mappings()
        channel.prepare(64 * PAGE)
        for _ in range(2 * shared_memory._WATCHED):
            channel.prepare(needed)
        slots: Slots = channel._slots  # type: ignore[attr-defined]
        assert slots.arena.size == kept * PAGE
        assert arena_mappings() == before + 1
    finally:
        llama.close()


def test_what_does_not_lie_in_the_arena_cannot_be_named_in_a_message(
    checkpoint: Checkpoint,
) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")
    llama = fake.open()
    channel = llama._channel
    try:
        channel.prepare(16 * PAGE)
        tensor = channel.empty(spec(4, 4))
        assert channel.pack(tensor) == channel.pack(tensor.view(16)) == 0
        for wrong in (torch.zeros(4, 4), tensor[1], tensor.t(), tensor[:, :2]):
            with pytest.raises(InputError, match="arena"):
                channel.pack(wrong)
    finally:
        llama.close()


def test_closing_releases_the_arena_even_under_living_tensors(checkpoint: Checkpoint) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")
    before = Footprint.of()
    llama = fake.open()
    llama.forward([1, 2, 3])
    kept = llama._channel.empty(spec(8)).fill_(5.0)
    llama.close()
    llama.close()
    assert kept.eq(5.0).all()
    del kept, llama
    assert Footprint.of() == before


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
    tokens = 16 * tiny().config.max_positions
    result = aligned(8 * tokens)
    memory_client.bring_arena(result + 4 * tokens * tiny().config.hidden_size)
    memory = memory_client.memory
    assert memory is not None
    tensor = {"dtype": "int64", "shape": [16, tiny().config.max_positions], "payload": 0}
    first, last = slice(result, result + 4), slice(8 * (tokens - 1), 8 * tokens)
    good, bad = bytes(8), struct.pack("q", 2**40)
    for _ in range(3):
        memory[last], memory[first] = good, bytes(4)
        memory_client.send(packed(memory_client.request("embedding", [tensor], outputs=[result])))
        # The first row's arrival tells that the ids were found good and are being used.
        assert wait_until(lambda: memory[first] != bytes(4))
        memory[last] = bad
        assert "sequence" in msgpack.unpackb(memory_client.receive())


PROMPT = [1, 2, 3]


MESSAGE_BYTES = 64 * 1024


def test_the_end_of_the_connection_is_the_death_of_the_worker(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")

    def answer(request: Fields) -> Reply:
        assert fake.connection is not None
        fake.connection.shutdown(socket.SHUT_RDWR)
        return None

    fake.on_call = answer
    llama = fake.open()
    try:
        with pytest.raises(WorkerDied):
            llama.forward(PROMPT)
    finally:
        llama.close()


def test_descriptors_that_a_worker_sends_are_not_kept(checkpoint: Checkpoint) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")

    def answer(request: Fields) -> Reply:
        assert fake.connection is not None
        with Path(__file__).open() as file:
            raw = packed(fake.reply(request))
            socket.send_fds(fake.connection, [raw], [file.fileno()] * 9)
        return None

    fake.on_call = answer
    llama = fake.open()
    try:
        llama.forward(PROMPT)
        before = Footprint.of()
        llama.forward(PROMPT)
        assert Footprint.of() == before
    finally:
        llama.close()


@pytest.mark.parametrize(
    "answer",
    [b"refused", b"", b"MAPPED", b"\x80", bytes(MESSAGE_BYTES + 1), None],
    ids=lambda answer: f"{answer!r:.12}",
)
def test_whatever_is_said_to_a_new_arena_but_that_it_is_mapped_is_an_error(
    checkpoint: Checkpoint, answer: bytes | None
) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")
    fake.on_arena = lambda: answer
    llama = fake.open(timeout_s=0.5)
    try:
        before = Footprint.of()
        for _ in range(3):
            with pytest.raises(SplitError):
                llama.forward(PROMPT)
        assert Footprint.of() == before
    finally:
        llama.close()


def test_after_a_failure_no_further_arena_is_offered(checkpoint: Checkpoint) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")
    offered: list[None] = []

    def nonsense() -> bytes:
        offered.append(None)
        return bytes(MESSAGE_BYTES + 1)

    fake.on_arena = nonsense
    llama = fake.open()
    try:
        with pytest.raises(ProtocolError):
            llama.forward(PROMPT)
        with pytest.raises(WorkerError, match="earlier call failed"):
            llama.forward(PROMPT)
    finally:
        llama.close()
    assert len(offered) == 1


def test_a_refused_arena_is_an_arena_error(checkpoint: Checkpoint) -> None:
    fake = FakeSeqpacketWorker(checkpoint, "fused")
    fake.on_arena = lambda: b"refused: \x1b[2J" + b"x" * 10_000
    llama = fake.open()
    try:
        with pytest.raises(ArenaError, match=r"\d bytes: b'refused: \\x1b\[2Jxxx") as caught:
            llama.forward(PROMPT)
        assert len(str(caught.value)) < 500
    finally:
        llama.close()
