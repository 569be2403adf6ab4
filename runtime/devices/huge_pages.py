"""Weights on huge pages: where each is read once per token, every small page costs a walk through page tables."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import psutil

_HUGE_PAGE_BYTES = 2 << 20  # x86-64; on Arm with small pages of 4 KiB too

_COLLAPSE = 25  # MADV_COLLAPSE of linux/mman.h, which Python 3.11 does not name
_WORTH_IT_BYTES = 32 << 20
_RESIDENT = 0.9  # of a mapping; what is mostly empty (stacks, reserves) would be filled
_PRIVATE = ("[anon]", "[heap]")


def use_huge_pages(weight_bytes: int) -> None:
    """Move what this process keeps in private memory to huge pages, as far as the kernel does that on demand.

    Nothing is done for few ``weight_bytes``, of which caches hold a part. Called once weights are packed, by whatever
    allocator: libraries that pack them take no memory of ours. Since Linux 6.1 it is done on return; before, the
    kernel does it in the background. Nothing is promised: where huge pages are off, or memory is scattered, all
    stays as it is.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None or weight_bytes < _WORTH_IT_BYTES:
        return
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, size in _mappings():
        if advise(start, size, mmap.MADV_HUGEPAGE) == 0:
            advise(start, size, _COLLAPSE)


def _mappings() -> Iterator[tuple[int, int]]:
    """Yield start and size, in bytes, of private mappings that are large and in memory."""
    for mapping in psutil.Process().memory_maps(grouped=False):
        large = mapping.size >= _HUGE_PAGE_BYTES and mapping.rss >= _RESIDENT * mapping.size
        if large and mapping.path in _PRIVATE and "w" in mapping.perms:
            start, end = (int(address, 16) for address in mapping.addr.split("-"))
            yield start, end - start
