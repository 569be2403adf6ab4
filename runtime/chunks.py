"""How a long prompt is cut, so that the memory which both sides share does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

from runtime.stages import Granularity

CHUNK_TOKENS = 1024
"""Longest prompt that is computed in one piece."""


def in_one_piece(tokens: int) -> bool:
    """Whether a prompt of ``tokens`` tokens is not cut."""
    return tokens <= CHUNK_TOKENS


def chunks(granularity: Granularity, tokens: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, rows) of the pieces in which ``tokens`` positions from ``start`` on are computed.

    Where scores cross the boundary (``operation``), those of a piece are no more than those of a prompt of
    ``CHUNK_TOKENS`` tokens, rows x keys: pieces become shorter as the keys become more.
    """
    end = start + tokens
    while start < end:
        rows = CHUNK_TOKENS
        if granularity == "operation" and start:
            # The largest r with r (start + r) <= CHUNK_TOKENS^2.
            rows = max(1, (isqrt(start * start + 4 * CHUNK_TOKENS * CHUNK_TOKENS) - start) // 2)
        rows = min(rows, end - start)
        yield start, rows
        start += rows
