"""Shared memory: who owns which part of it, that nobody can resize it, and that it goes when it must."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import mmap
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch.utils.dlpack import from_dlpack

from runtime.errors import ArenaError, ProtocolError
from runtime.tensors import TensorSpec
from runtime.transports.arena import ALIGNMENT, Arena, Slots, aligned
from runtime.transports.shared_memory import SharedMemoryClient
from tests.runtime.peers import (
    Footprint,
    arena_mappings,
    sealed_memory,
)

PAGE = 4096
PUNCH_HOLE = 0x03  # linux/falloc.h, and keep the size
MADV_REMOVE = 9
F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; Python 3.11 has no name for it


@pytest.fixture
def arena() -> Arena:
    made, descriptor = Arena.create(16 * PAGE)
    os.close(descriptor)
    return made


def spec(*shape: int, dtype: torch.dtype = torch.float32) -> TensorSpec:
    return TensorSpec(dtype, shape)


# Slots ------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[torch.Tensor], Any]] = {
    "itself": lambda x: x,
    "another shape": lambda x: x.view(-1),
    "a row": lambda x: x[0],
    "the end": lambda x: x.view(-1)[-1:],
    "turned": lambda x: x.transpose(0, -1),
    "a view of a view of a view": lambda x: x.view(-1)[1:].unsqueeze(0)[:, ::2],
    "detached": lambda x: x.detach(),
    "of other numbers": lambda x: x.view(torch.uint8),
    "expanded": lambda x: x.expand(3, *x.shape),
    "an array": lambda x: x.view(torch.uint8).numpy(),
    "a part of an array": lambda x: x.view(torch.uint8).numpy()[..., 1:],
    "bytes of an array": lambda x: x.view(torch.uint8).numpy().data,
    "a tensor of an array": lambda x: torch.from_numpy(x.view(torch.uint8).numpy()),
    "its storage": lambda x: x.untyped_storage(),
    "dlpack": from_dlpack,
}


class SlotsMachine(RuleBasedStateMachine):
    """Random lives of tensors: each keeps what was written into it until nobody looks any more."""

    SIZE = 8 * PAGE

    def __init__(self) -> None:
        super().__init__()
        made, descriptor = Arena.create(self.SIZE)
        os.close(descriptor)
        self.slots = Slots(made)
        self.base = made.as_bytes().data_ptr()
        self.live: list[tuple[torch.Tensor, int]] = []
        self.views: list[torch.Tensor] = []
        self.count = 0

    @rule(
        shape=st.lists(st.integers(1, 12), min_size=1, max_size=3),
        dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.int64)),
    )
    def allocate(self, shape: list[int], dtype: torch.dtype) -> None:
        wanted = TensorSpec(dtype, tuple(shape))
        free = self.slots.free_bytes
        try:
            tensor = self.slots.allocate(wanted)
        except ArenaError:
            # In pieces, perhaps, but never for nothing: even the longest fits into an empty arena.
            assert self.live or self.views
            return
        assert (tensor.dtype, list(tensor.shape)) == (dtype, shape)
        assert tensor.is_contiguous()
        assert free - self.slots.free_bytes == aligned(wanted.nbytes)
        self.count += 1
        mark = self.count % 251
        tensor.view(-1).view(torch.uint8).fill_(mark)
        self.live.append((tensor, mark))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def keep_a_view_only(self, data: st.DataObject) -> None:
        tensor, mark = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.live.append((tensor.view(-1)[-1:], mark))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def look_twice(self, data: st.DataObject) -> None:
        tensor, _ = self.live[data.draw(st.integers(0, len(self.live) - 1))]
        self.views.append(tensor.detach())

    @rule()
    def forget_the_views(self) -> None:
        self.views.clear()

    @invariant()
    def nothing_was_overwritten(self) -> None:
        for tensor, mark in self.live:
            assert tensor.contiguous().view(-1).view(torch.uint8).eq(mark).all()

    @invariant()
    def every_slot_begins_where_it_should(self) -> None:
        for tensor, _ in self.live:
            offset = self.slots.offset_of(tensor)
            if offset is not None:
                assert offset % ALIGNMENT == 0
                assert tensor.data_ptr() == self.base + offset

    def teardown(self) -> None:
        self.live.clear()
        self.views.clear()
        assert self.slots.free_bytes == self.SIZE
        # In one piece.
        assert self.slots.allocate(spec(self.SIZE // 4)).nbytes == self.SIZE


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("look", VIEWS.values(), ids=VIEWS)
def test_a_slot_is_not_free_while_anything_looks_into_it(
    arena: Arena, look: Callable[[torch.Tensor], Any]
) -> None:
    slots = Slots(arena)
    before = slots.free_bytes
    view = look(slots.allocate(spec(4, 5)))
    gc.collect()
    assert slots.free_bytes == before - aligned(80)
    rest = [slots.allocate(spec(16)) for _ in range(slots.free_bytes // 64)]
    with pytest.raises(ArenaError, match="no room"):
        slots.allocate(spec(1))
    del view, rest
    gc.collect()
    assert slots.free_bytes == before


def test_a_full_arena_says_what_was_wanted_and_what_is_free(arena: Arena) -> None:
    slots = Slots(arena)
    kept = slots.allocate(spec(15 * PAGE // 4))
    with pytest.raises(ArenaError, match=r"float32\[2, 1024\].*4,096 free of 65,536"):
        slots.allocate(spec(2, 1024))
    assert slots.allocate(spec(1024)).nbytes == PAGE
    del kept
    assert slots.allocate(spec(16 * PAGE // 4)).nbytes == arena.size


def test_only_what_begins_a_slot_has_an_offset(arena: Arena) -> None:
    slots = Slots(arena)
    first, second = slots.allocate(spec(3)), slots.allocate(spec(3))
    assert (slots.offset_of(first), slots.offset_of(second)) == (0, 64)
    assert slots.offset_of(first.view(1, 3)) == 0
    assert slots.offset_of(first[1:]) is None
    assert slots.offset_of(torch.zeros(3)) is None


def test_a_freed_place_has_no_offset_until_it_is_given_again(arena: Arena) -> None:
    slots = Slots(arena)
    pointer = slots.allocate(spec(3)).data_ptr()
    assert slots.free_bytes == arena.size
    again = slots.allocate(spec(3))
    assert again.data_ptr() == pointer
    assert slots.offset_of(again) == 0


def test_slots_may_be_dropped_by_any_thread(arena: Arena) -> None:
    slots = Slots(arena)
    shared: list[torch.Tensor] = []
    stop = threading.Event()

    def drop() -> None:
        while not stop.is_set() or shared:
            with contextlib.suppress(IndexError):
                shared.pop(random.randrange(8))

    droppers = [threading.Thread(target=drop) for _ in range(2)]
    for dropper in droppers:
        dropper.start()
    try:
        for turn in range(3000):
            with contextlib.suppress(ArenaError):
                shared.append(slots.allocate(spec(1 + turn % 40)))
    finally:
        stop.set()
        # What the droppers' random choice does not reach.
        while any(dropper.is_alive() for dropper in droppers):
            shared.clear()
            for dropper in droppers:
                dropper.join(0.01)
    gc.collect()
    assert slots.free_bytes == arena.size


# The memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, PAGE, 15 * PAGE, 17 * PAGE, 1 << 40])
def test_nobody_can_resize_an_arena(size: int) -> None:
    made, descriptor = Arena.create(16 * PAGE)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
        assert os.fstat(descriptor).st_size == made.size
    finally:
        os.close(descriptor)


@pytest.fixture
def shared() -> Iterator[tuple[Arena, Arena, int]]:
    """An arena, the same as the other side has mapped it, and the descriptor that both have."""
    ours, descriptor = Arena.create(16 * PAGE)
    theirs = Arena.attach(descriptor)
    ours.as_bytes().fill_(7)
    yield ours, theirs, descriptor
    os.close(descriptor)


def punch(descriptor: int, offset: int, size: int) -> None:
    """Take pages out of a file, as a worker can who has its descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_long(offset), ctypes.c_long(size))
    if libc.fallocate(descriptor, PUNCH_HOLE, *arguments):
        raise OSError(ctypes.get_errno(), "fallocate")


def test_without_the_last_seal_whoever_has_an_arena_can_take_pages_out_of_it(
    shared: tuple[Arena, Arena, int],
) -> None:
    """What that does: no crash, but zeros, and memory that is charged anew."""
    ours, _, descriptor = shared
    punch(descriptor, 4 * PAGE, 4 * PAGE)
    assert ours.as_bytes()[4 * PAGE : 8 * PAGE].eq(0).all()
    assert ours.as_bytes()[: 4 * PAGE].eq(7).all()


def test_nobody_can_take_a_page_out_of_an_arena_that_both_have_mapped(
    shared: tuple[Arena, Arena, int],
) -> None:
    ours, theirs, descriptor = shared
    ours.close_to_holes(descriptor)
    again = os.open(
        f"/proc/self/fd/{descriptor}", os.O_RDWR
    )  # of which it may make as many as it likes
    try:
        for each in (descriptor, again):
            with pytest.raises(PermissionError):
                punch(each, 4 * PAGE, 4 * PAGE)
            with pytest.raises(PermissionError):
                mmap.mmap(each, 16 * PAGE)
        with pytest.raises(PermissionError):
            theirs._map.madvise(MADV_REMOVE, 4 * PAGE, 4 * PAGE)
    finally:
        os.close(again)
    assert ours.as_bytes().eq(7).all()
    theirs.as_bytes()[5 * PAGE] = 8  # and both go on writing
    assert ours.as_bytes()[5 * PAGE] == 8


def test_pages_that_were_taken_out_before_are_noticed(shared: tuple[Arena, Arena, int]) -> None:
    ours, _, descriptor = shared
    punch(descriptor, 0, PAGE)
    with pytest.raises(ProtocolError, match="arena: has lost pages"):
        ours.close_to_holes(descriptor)


def test_seals_that_the_other_side_adds_first_are_noticed(
    shared: tuple[Arena, Arena, int],
) -> None:
    ours, _, descriptor = shared
    with pytest.raises(OSError, match="busy"):  # it would stop this side's writing
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    with pytest.raises(ProtocolError, match="arena: was sealed by the worker"):
        ours.close_to_holes(descriptor)


class KeepingWorker:
    """Maps what it is given, and keeps the descriptor, after ``before`` was done with it."""

    def __init__(self, before: Callable[[int], object]) -> None:
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client = SharedMemoryClient(ours)
        self._before = before
        self.descriptor = -1
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        _, (self.descriptor,), _, _ = socket.recv_fds(self._theirs, 100, 1)
        self.arena = Arena.attach(self.descriptor)
        self._before(self.descriptor)
        self._theirs.send(b"mapped")

    def close(self) -> None:
        self._thread.join()
        self.client.close()
        self._theirs.close()
        os.close(self.descriptor)


def test_a_worker_that_keeps_the_descriptor_can_do_nothing_with_it() -> None:
    with contextlib.closing(KeepingWorker(lambda descriptor: None)) as worker:
        worker.client.prepare(16 * PAGE)
        with pytest.raises(PermissionError):
            punch(worker.descriptor, 0, PAGE)
        ours = worker.client.empty(spec(PAGE)).fill_(3.0)
        assert worker.arena.tensor("x", spec(PAGE), 0).equal(ours)


def test_a_worker_that_takes_pages_out_in_time_is_noticed() -> None:
    with (
        contextlib.closing(KeepingWorker(lambda each: punch(each, 0, PAGE))) as worker,
        pytest.raises(ProtocolError, match="arena: has lost pages"),
    ):
        worker.client.prepare(16 * PAGE)


def test_both_sides_see_the_same_bytes_without_the_descriptor() -> None:
    ours, descriptor = Arena.create(16 * PAGE)
    theirs = Arena.attach(descriptor)
    os.close(descriptor)
    here = Slots(ours).allocate(spec(2, 8))
    there = theirs.tensor("x", spec(2, 8), 0)
    here.fill_(3.0)
    assert there.eq(3.0).all()
    there[1] = 4.0
    assert here[1].eq(4.0).all()
    assert theirs.size == ours.size


def test_an_arena_has_no_name_and_goes_with_its_last_tensor() -> None:
    before = Footprint.of()
    shm = set(Path("/dev/shm").iterdir())  # noqa: S108 - looked at only
    made, descriptor = Arena.create(16 * PAGE)
    os.close(descriptor)
    assert set(Path("/dev/shm").iterdir()) == shm  # noqa: S108
    tensor = Slots(made).allocate(spec(8)).fill_(1.0)
    view = tensor[2:4]
    del made, tensor
    gc.collect()
    assert arena_mappings() == before.arenas + 1
    assert view.tolist() == [1.0, 1.0]
    del view
    assert Footprint.of() == before


def test_the_pages_of_a_new_arena_are_there_already() -> None:
    size = 64 << 20
    process = psutil.Process()
    before = process.memory_info().shared
    made, descriptor = Arena.create(size)
    os.close(descriptor)
    assert process.memory_info().shared - before >= 0.9 * size
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made.as_bytes().fill_(1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults < size // PAGE // 50


def test_an_arena_that_the_machine_has_no_memory_for_is_refused_with_both_sizes() -> None:
    before = Footprint.of()
    wanted = psutil.virtual_memory().total * 4
    with pytest.raises(ArenaError) as caught:
        Arena.create(wanted)
    said = str(caught.value)
    assert f"{wanted:,} bytes" in said
    available = int(said.split("wanted, ")[1].split(" available")[0].replace(",", ""))
    assert 0 < available <= psutil.virtual_memory().total
    assert Footprint.of() == before


@pytest.mark.parametrize("size", [0, -1, 2**63, 2**70])
def test_an_arena_of_an_absurd_size_is_refused(size: int) -> None:
    before = Footprint.of()
    with pytest.raises(ArenaError):
        Arena.create(size)
    assert Footprint.of() == before


def test_an_arena_beyond_what_the_system_gives_is_refused_and_leaves_nothing() -> None:
    code = f"""
import resource
from runtime.errors import ArenaError
from runtime.transports.arena import Arena
from tests.runtime.peers import Footprint
resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
before = Footprint.of()
try:
    Arena.create(16 << 20)
except ArenaError as error:
    assert "{16 << 20:,} bytes" in str(error) and "available" in str(error), error
else:
    raise SystemExit("it was given")
assert Footprint.of() == before
arena, descriptor = Arena.create(4 << 20)
arena.as_bytes().fill_(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_memory_that_its_maker_could_shrink_is_refused() -> None:
    descriptor = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, PAGE)
        with pytest.raises(ProtocolError, match="arena: is not sealed"):
            Arena.attach(descriptor)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        with pytest.raises(ProtocolError, match="arena: is not sealed"):
            Arena.attach(descriptor)
    finally:
        os.close(descriptor)


def test_memory_that_cannot_be_written_is_refused() -> None:
    descriptor = os.memfd_create("read-only", os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, PAGE)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        with pytest.raises((ArenaError, ProtocolError), match="arena"):
            Arena.attach(descriptor)
    finally:
        os.close(descriptor)


def test_what_is_no_memory_at_all_is_refused() -> None:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as file:
        for descriptor in (reading, writing, file.fileno()):
            with pytest.raises(ProtocolError, match="arena: is not sealed"):
                Arena.attach(descriptor)
    os.close(reading)
    os.close(writing)


def test_memory_whose_pages_do_not_exist_yet_is_refused() -> None:
    descriptor = sealed_memory(256 * PAGE, sparse=True)
    try:
        with pytest.raises((ArenaError, ProtocolError), match="arena"):
            Arena.attach(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("offset", "problem"),
    [
        (1, "multiple"),
        (4, "multiple"),
        (16 * PAGE, "within"),
        (16 * PAGE - 64, "within"),
        (2**62, "within"),
        (2**63 - 64, "within"),
        (2**64 - 64, "within"),
    ],
)
def test_a_place_outside_the_arena_is_refused_by_name(
    arena: Arena, offset: int, problem: str
) -> None:
    with pytest.raises(ProtocolError, match=problem) as caught:
        arena.tensor("inputs[0].payload", spec(17), offset)
    assert caught.value.field == "inputs[0].payload"


@pytest.mark.parametrize("shape", [(2**61,), (2**62, 4), (2**63 - 1,) * 4, (16 * PAGE,)], ids=str)
def test_a_shape_larger_than_the_arena_is_refused_without_overflow(
    arena: Arena, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ProtocolError, match="within"):
        arena.tensor("x", spec(*shape), 0)


def test_a_tensor_may_fill_the_arena_to_its_last_byte(arena: Arena) -> None:
    assert arena.tensor("x", spec(16 * PAGE // 4), 0).nbytes == arena.size
    assert arena.tensor("x", spec(16), arena.size - 64).nbytes == 64


# Growing ----------------------------------------------------------------------------------------------
