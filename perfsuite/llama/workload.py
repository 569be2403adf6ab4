"""What a forward pass consists of: operations, each with its FLOPs and bytes in closed form.

An operation is what is timed on its own: a matrix product, a softmax, a copy. Its shape is all that its
FLOPs and its bytes depend on; bytes are those that it must read and write once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Literal

import torch

from runtime.transports.registry import TRANSPORTS

Side = Literal["device", "trusted"]
Memory = Literal["private", "arena"]
"""Where results go: memory of a process's own, fresh for each, or the arena that both map."""

Shape = tuple[int, ...]
Form = Callable[..., int]


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of work at one shape, ``times`` times a forward pass. ``call`` is the RPC that it serves.

    The kinds and what their shapes mean:

    =================  =============================================================
    linear             (rows, inner, columns): x weight^T; linear_residual adds to a sum
    scores, weighted   (matrices, rows, inner, columns): Q K^T, attention weights V
    attention          (heads, key/value heads, queries, keys, head size), causal, fused
    lm_head            (prompts, inner, vocabulary)
    embedding          (tokens, features)
    softmax            (heads, queries, keys): causal
    rotate, rope       (heads turned, tokens, head size)
    split/join_heads   (heads, tokens, head size)
    all others         (rows, features)
    =================  =============================================================

    Queries are the last of the positions that have keys: as many in a prompt, one in a step of generation.
    """

    side: Side
    call: str
    kind: str
    shape: Shape
    dtype: str
    memory: Memory
    times: int = 1

    @property
    def flops(self) -> int:
        """Floating-point operations of one time, a multiplication and an addition counted as two."""
        return _FLOPS.get(self.kind, _no_flops)(*self.shape)

    @property
    def bytes(self) -> int:
        """Bytes that one time must read and write."""
        size = getattr(torch, self.dtype).itemsize
        return _ELEMENTS.get(self.kind, _read_and_write)(*self.shape) * int(size)

    @property
    def weight_bytes(self) -> int:
        """Bytes of a model's weights among those, where it multiplies with them."""
        if self.kind not in _WITH_WEIGHTS:
            return 0
        _, inner, columns = self.shape
        return inner * columns * int(getattr(torch, self.dtype).itemsize)

    @property
    def work(self) -> int:
        """What its rate is a rate of: FLOPs where it multiplies matrices, bytes elsewhere."""
        return self.flops or self.bytes


def memory_of(transport: str) -> Memory:
    """Return where tensors lie that cross by ``transport`` or by one of its routes."""
    shared = any(
        row.shares_memory and transport in (row.name, *row.routes.values())
        for row in TRANSPORTS.values()
    )
    return "arena" if shared else "private"


def _product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def _products(matrices: int, rows: int, inner: int, columns: int) -> int:
    return matrices * _product(rows, inner, columns)


def _causal_attention(heads: int, kv_heads: int, queries: int, keys: int, size: int) -> int:
    # Two products over what a query may see: all keys before the queries', and of those up to its own.
    seen = queries * (keys - queries) + queries * (queries + 1) // 2
    return 4 * heads * seen * size


def _no_flops(*shape: int) -> int:
    return 0


_FLOPS: Mapping[str, Form] = MappingProxyType(
    {
        "linear": _product,
        "linear_residual": _product,
        "lm_head": _product,
        "scores": _products,
        "weighted": _products,
        "attention": _causal_attention,
    }
)


_WITH_WEIGHTS = ("linear", "linear_residual", "lm_head")


def _operands(rows: int, inner: int, columns: int) -> int:
    return rows * inner + inner * columns + rows * columns


def _read_and_write(*shape: int) -> int:
    return 2 * prod(shape)


_ELEMENTS: Mapping[str, Form] = MappingProxyType(
    {
        "linear": _operands,
        "linear_residual": lambda rows, inner, columns: (
            _operands(rows, inner, columns) + rows * columns
        ),
        "lm_head": _operands,
        "scores": lambda matrices, *shape: matrices * _operands(*shape),
        "weighted": lambda matrices, *shape: matrices * _operands(*shape),
        "attention": lambda heads, kv_heads, queries, keys, size: (
            2 * (heads * queries + kv_heads * keys) * size
        ),
        "add": lambda rows, features: 3 * rows * features,
        "add_in_place": lambda rows, features: 3 * rows * features,
        "silu_mul": lambda rows, features: 3 * rows * features,
        "gated": lambda rows, features: 3 * rows * features,
    }
)
