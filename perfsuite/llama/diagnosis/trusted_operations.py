"""The trusted side's operations one by one, on made-up values: the runtime's own functions and memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch

from perfsuite.llama.workload import Memory, Operation
from runtime.nonlinear import apply_rope, causal_softmax, rms_norm, silu_mul
from runtime.tensors import TensorSpec
from runtime.transports.arena import Arena, Slots, aligned

Run = Callable[[], object]

_EPS = 1e-5


class TrustedOperations:
    """Builds operations at given shapes; results lie where the stage's transport would put them."""

    def __init__(self, arena_bytes: int) -> None:
        """``arena_bytes`` bounds the results of one arena operation.

        Raises:
            ArenaError: if the machine has not so much memory.
        """
        arena, descriptor = Arena.create(aligned(max(1, arena_bytes)))
        os.close(descriptor)  # nobody else is to map it
        self._slots = Slots(arena)

    @property
    def free_bytes(self) -> int:
        """Bytes of the arena in which no result lies."""
        return self._slots.free_bytes

    def empty(self, memory: Memory, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
        """Return memory for results, as a channel of that kind does."""
        if memory == "private":
            return torch.empty(tuple(shape), dtype=dtype)
        return self._slots.allocate(TensorSpec(dtype, tuple(shape)))

    def build(self, operation: Operation) -> Run:
        """Return what computes ``operation`` once; its results are released with what it returns.

        Raises:
            KeyError: for a kind that the trusted side does not compute.
        """
        dtype: torch.dtype = getattr(torch, operation.dtype)
        memory = operation.memory

        def empty(*shape: int) -> torch.Tensor:
            return self.empty(memory, dtype, shape)

        return _BUILDERS[operation.kind](dtype, empty, *operation.shape)


Empty = Callable[..., torch.Tensor]


def _rms_norm(dtype: torch.dtype, empty: Empty, rows: int, features: int) -> Run:
    x, weight = torch.randn(rows, features).to(dtype), torch.ones(features, dtype=dtype)
    return lambda: rms_norm(x, weight, _EPS, empty(rows, features))


def _by_head(dtype: torch.dtype, heads: int, tokens: int, size: int) -> torch.Tensor:
    return torch.randn(1, tokens, heads, size).to(dtype).transpose(1, 2)


def _rope(dtype: torch.dtype, empty: Empty, heads: int, tokens: int, size: int) -> Run:
    x = _by_head(dtype, heads, tokens, size)
    cos, sin = torch.ones(tokens, size // 2), torch.zeros(tokens, size // 2)
    return lambda: apply_rope(x, cos * 0.5, sin * 0.5, empty(1, heads, tokens, size))


def _split_heads(dtype: torch.dtype, empty: Empty, heads: int, tokens: int, size: int) -> Run:
    x = _by_head(dtype, heads, tokens, size)
    return lambda: empty(1, heads, tokens, size).copy_(x)


def _join_heads(dtype: torch.dtype, empty: Empty, heads: int, tokens: int, size: int) -> Run:
    x = torch.randn(1, heads, tokens, size).to(dtype)
    return lambda: empty(1, tokens, heads, size).transpose(1, 2).copy_(x)


def _softmax(dtype: torch.dtype, empty: Empty, heads: int, queries: int, keys: int) -> Run:
    scores = torch.randn(heads, queries, keys).to(dtype)
    return lambda: causal_softmax(scores, empty(heads, queries, keys))


def _add(dtype: torch.dtype, empty: Empty, rows: int, features: int) -> Run:
    x, y = (torch.randn(rows, features).to(dtype) for _ in range(2))
    return lambda: torch.add(x, y)


def _add_in_place(dtype: torch.dtype, empty: Empty, rows: int, features: int) -> Run:
    x, y = (torch.randn(rows, features).to(dtype) for _ in range(2))
    return lambda: x.add_(y)


def _silu_mul(dtype: torch.dtype, empty: Empty, rows: int, features: int) -> Run:
    gate, up = (torch.randn(rows, features).to(dtype) for _ in range(2))
    return lambda: silu_mul(gate, up, empty(rows, features))


def _token_ids(dtype: torch.dtype, empty: Empty, rows: int, tokens: int) -> Run:
    ids = torch.zeros(rows, tokens, dtype=torch.int64)
    return lambda: torch.empty_like(ids).copy_(ids)


def _logits(dtype: torch.dtype, empty: Empty, rows: int, vocabulary: int) -> Run:
    logits = torch.randn(rows, vocabulary).to(dtype)
    return lambda: logits.to(torch.float32, copy=True)


_BUILDERS: Mapping[str, Callable[..., Run]] = MappingProxyType(
    {
        "rms_norm": _rms_norm,
        "rope": _rope,
        "split_heads": _split_heads,
        "join_heads": _join_heads,
        "softmax": _softmax,
        "add": _add,
        "add_in_place": _add_in_place,
        "silu_mul": _silu_mul,
        "token_ids": _token_ids,
        "logits": _logits,
    }
)
