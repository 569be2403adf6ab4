"""Shared memory without a name: a sealed memfd, and the ledger of who owns which part of it."""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from bisect import bisect
from collections import deque

import torch

from runtime.errors import ArenaError, ProtocolError
from runtime.memory import available_bytes
from runtime.tensors import TensorSpec

ALIGNMENT = 64  # a cache line, and the widest vector register

_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python 3.11 has no name for it
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; Python 3.11 has no name for it


def aligned(size: int) -> int:
    """Round ``size`` up to the next slot boundary, in bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Arena:
    """A mapping of shared memory. It lives as long as any tensor that looks into it."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map ``size`` bytes of ``descriptor`` and fault all its pages in; the caller keeps the descriptor."""
        self.size = size
        self._map = mmap.mmap(descriptor, size)
        try:
            self._map.madvise(_MADV_POPULATE_WRITE)
        except OSError:
            # An older kernel: touch one byte of each page. The memory is new, so it is zero already.
            for offset in range(0, size, mmap.PAGESIZE):
                self._map[offset] = self._map[offset]

    @classmethod
    def create(cls, size: int) -> tuple[Arena, int]:
        """Make new memory of ``size`` bytes that nobody can resize; return it with its descriptor.

        Raises:
            ArenaError: if the machine has not that much. Found out here, not by a SIGBUS later.
        """
        available = available_bytes()
        if size > available:
            raise ArenaError(_too_large(size, available))
        descriptor = os.memfd_create("split-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(descriptor, 0, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            return cls(descriptor, size), descriptor
        except OSError as error:
            os.close(descriptor)
            raise ArenaError(_too_large(size, available) + f" ({error.strerror})") from error

    @classmethod
    def attach(cls, descriptor: int) -> Arena:
        """Map memory that the other side made.

        Raises:
            ProtocolError: if it could be shrunk under this side's feet.
            ArenaError: if it cannot be mapped.
        """
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        if not seals & fcntl.F_SEAL_SHRINK:
            raise ProtocolError("arena", "is not sealed memory")
        status = os.fstat(descriptor)
        size = status.st_size
        if status.st_blocks * 512 < size:
            raise ProtocolError("arena", "has pages that do not exist yet")
        try:
            return cls(descriptor, size)
        except (OSError, ValueError) as error:
            raise ArenaError(f"arena: cannot map {size:,} bytes ({error})") from error

    def close_to_holes(self, descriptor: int) -> None:
        """Forbid the other side, which has mapped this arena, to take pages out of it.

        Nobody can map it for writing any more, either.

        Raises:
            ProtocolError: if the other side has done so before, or has sealed the memory against this.
        """
        try:
            seals = _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        except PermissionError as error:
            raise ProtocolError("arena", "was sealed by the worker") from error
        if os.fstat(descriptor).st_blocks * 512 < self.size:
            raise ProtocolError("arena", "has lost pages")

    def tensor(self, field: str, spec: TensorSpec, offset: int) -> torch.Tensor:
        """Return a tensor that looks at the bytes from ``offset`` on.

        Raises:
            ProtocolError: naming ``field``, if they are misaligned or not all within the arena.
        """
        if offset % ALIGNMENT:
            raise ProtocolError(field, f"offset {offset} is not a multiple of {ALIGNMENT}")
        if offset > self.size or spec.nbytes > self.size - offset:
            raise ProtocolError(
                field, f"{spec} at offset {offset} does not lie within {self.size} bytes"
            )
        count = spec.nbytes // spec.dtype.itemsize
        return torch.frombuffer(self._map, dtype=spec.dtype, count=count, offset=offset).view(
            spec.shape
        )

    def view(self, offset: int, size: int) -> memoryview:
        """Return the bytes from ``offset`` on, as an object whose life can be watched."""
        return memoryview(self._map)[offset : offset + size]

    def as_bytes(self) -> torch.Tensor:
        """Return all of the arena as a tensor of bytes."""
        return torch.frombuffer(self._map, dtype=torch.uint8)


def _too_large(size: int, available: int) -> str:
    return (
        f"arena: {size:,} bytes of shared memory wanted, {available:,} available; "
        "use a shorter prompt or free some memory"
    )


class _Lease(weakref.ref[memoryview]):
    """Notices that nobody looks into a slot any more."""

    __slots__ = ("offset", "pointer", "size")
    offset: int
    size: int
    pointer: int


class Slots:
    """Owns an arena's space: first fit, and a slot is free again when no tensor looks into it any more.

    A slot's owner is the storage of the tensor that ``allocate`` returns: every view of that tensor keeps
    the slot, so nothing can be handed out twice while anybody may still read it.
    """

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self._free: list[tuple[int, int]] = [
            (0, arena.size)
        ]  # (offset, size), by offset, never adjacent
        self._leases: dict[int, _Lease] = {}  # by data pointer, of slots in use
        # Called wherever the last reference happens to go: it only leaves a note here.
        self._returned: deque[_Lease] = deque()

    def allocate(self, spec: TensorSpec) -> torch.Tensor:
        """Return uninitialized memory.

        Raises:
            ArenaError: if no free stretch is long enough.
        """
        return self.reserve(spec)[0]

    def reserve(self, spec: TensorSpec) -> tuple[torch.Tensor, int]:
        """Return uninitialized memory and the offset at which its slot begins, as ``allocate``."""
        self._collect()
        size = aligned(spec.nbytes)
        for index, (offset, free) in enumerate(self._free):
            if free >= size:
                if free > size:
                    self._free[index] = (offset + size, free - size)
                else:
                    del self._free[index]
                return self._leased(spec, offset, size), offset
        raise ArenaError(
            f"arena: no room for {spec} among {self.free_bytes:,} free of {self.arena.size:,} bytes"
        )

    def _leased(self, spec: TensorSpec, offset: int, size: int) -> torch.Tensor:
        view = self.arena.view(offset, spec.nbytes)
        tensor = torch.frombuffer(view, dtype=spec.dtype).view(*spec.shape)
        pointer = tensor.data_ptr()
        lease = self._leases[pointer] = _Lease(view, self._returned.append)
        lease.offset, lease.size, lease.pointer = offset, size, pointer
        return tensor

    def offset_of(self, tensor: torch.Tensor) -> int | None:
        """Return where ``tensor``'s slot begins, None if it does not begin one."""
        lease = self._leases.get(tensor.data_ptr())
        return None if lease is None else lease.offset

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody owns."""
        self._collect()
        return sum(size for _, size in self._free)

    def _collect(self) -> None:
        while self._returned:
            lease = self._returned.popleft()
            offset, size = lease.offset, lease.size
            del self._leases[lease.pointer]
            index = bisect(self._free, (offset, size))
            if index < len(self._free) and offset + size == self._free[index][0]:
                size += self._free.pop(index)[1]
            if index and sum(self._free[index - 1]) == offset:
                index -= 1
                before, length = self._free.pop(index)
                offset, size = before, length + size
            self._free.insert(index, (offset, size))
