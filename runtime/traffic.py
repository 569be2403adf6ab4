"""The payload of a forward pass in closed form: calls and bytes, from the model's configuration alone.

The measured traffic must equal these numbers to the byte; nothing here looks at what the runtime does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.checkpoints import ModelConfig
from runtime.chunks import chunks, in_one_piece
from runtime.stages import Stage

TOKEN_ID_BYTES = 8

_STEP_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Traffic:
    """RPCs and tensor payload in bytes, as the trusted side sends and receives them."""

    rpc_count: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def total_bytes(self) -> int:
        """Payload both ways, in bytes."""
        return self.bytes_sent + self.bytes_received

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.rpc_count + other.rpc_count,
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
        )

    def __mul__(self, times: int) -> Traffic:
        return Traffic(self.rpc_count * times, self.bytes_sent * times, self.bytes_received * times)


@dataclass(frozen=True, slots=True)
class CallTraffic:
    """One call's payload: bytes of the tensors that go, bytes of those that come, and how many they are."""

    operation: str
    bytes_sent: int
    bytes_received: int
    tensors: int = 2


def layer_calls(
    config: ModelConfig,
    stage: Stage,
    tokens: int,
    batch: int = 1,
    keys: int | None = None,
) -> tuple[CallTraffic, ...]:
    """List the calls of one decoder layer, in order, for ``batch`` prompts of ``tokens`` tokens.

    ``keys`` is over how many positions their attention extends, with themselves: those before are in the worker's
    cache, and cross no more.
    """
    rows = batch * tokens
    size = stage.torch_dtype.itemsize
    hidden = rows * config.hidden_size * size
    if stage.granularity == "model":
        return ()
    if stage.granularity == "layer":
        return (CallTraffic("fused_layer", hidden, hidden),)
    query = rows * config.num_heads * config.head_dim * size
    key = rows * config.num_kv_heads * config.head_dim * size
    scores = rows * config.num_heads * (keys or tokens) * size
    inner = rows * config.intermediate_size * size
    return (
        CallTraffic("batch_linear", hidden, query + 2 * key, 4),  # q, k, v
        CallTraffic("matmul", query + key, scores, 3),  # Q K^T
        CallTraffic("matmul", scores + key, query, 3),  # attention weights V
        CallTraffic("batch_linear", query, hidden),  # o
        CallTraffic("batch_linear", hidden, 2 * inner, 3),  # gate, up
        CallTraffic("batch_linear", inner, hidden),  # down
    )


def end_calls(
    config: ModelConfig, stage: Stage, tokens: int, batch: int = 1
) -> tuple[CallTraffic, ...]:
    """Describe the calls outside of the layers: embedding, the last position's logits, and all layers at once."""
    size = stage.torch_dtype.itemsize
    hidden, rows = config.hidden_size * size, batch * tokens
    embedding = CallTraffic("embedding", rows * TOKEN_ID_BYTES, rows * hidden)
    lm_head = CallTraffic("lm_head", batch * hidden, batch * config.vocab_size * size)
    if stage.granularity == "model":
        return embedding, CallTraffic("all_layers", rows * hidden, batch * hidden), lm_head
    return embedding, lm_head


def next_logits_call(config: ModelConfig, stage: Stage, batch: int = 1) -> CallTraffic:
    """Describe the one call that a further token is where the granularity is ``model``."""
    size = stage.torch_dtype.itemsize
    return CallTraffic("next_logits", batch * TOKEN_ID_BYTES, batch * config.vocab_size * size)


def layer_traffic(
    config: ModelConfig, stage: Stage, tokens: int, batch: int = 1, keys: int | None = None
) -> Traffic:
    """Payload of one decoder layer for ``batch`` prompts of ``tokens`` tokens; ``keys`` as in ``layer_calls``."""
    return _sum(layer_calls(config, stage, tokens, batch, keys))


def forward_traffic(config: ModelConfig, stage: Stage, tokens: int, batch: int = 1) -> Traffic:
    """Payload of a whole forward pass: embedding, every layer, and the last position's logits.

    A prompt of more than one piece (``runtime.chunks``) makes two calls more, which open a cache and close it
    again; scores cross for the keys up to each piece's end only: a part of 1/2 of the square of the prompt's
    length, and little more.
    """
    if in_one_piece(tokens):
        return _piece(config, stage, tokens, batch, tokens) + _sum(
            end_calls(config, stage, tokens, batch)[-1:]
        )
    return append_traffic(config, stage, tokens, batch) + Traffic(rpc_count=2)


def append_traffic(
    config: ModelConfig, stage: Stage, tokens: int, batch: int = 1, start: int = 0
) -> Traffic:
    """Payload of ``Context.append``: ``tokens`` more after ``start`` that are in the worker's cache.

    The call that opens the cache, at the first of them, is not counted.
    """
    *pieces, (begin, rows) = chunks(stage.granularity, tokens, start)
    total = sum(
        (_piece(config, stage, size, batch, first + size) for first, size in pieces), Traffic()
    )
    if stage.granularity == "model" and rows == 1 and begin:
        size = stage.torch_dtype.itemsize
        return total + Traffic(1, batch * TOKEN_ID_BYTES, batch * config.vocab_size * size)
    last = _piece(config, stage, rows, batch, begin + rows)
    return total + last + _sum(end_calls(config, stage, rows, batch)[-1:])


def _piece(config: ModelConfig, stage: Stage, rows: int, batch: int, keys: int) -> Traffic:
    """Payload of one piece up to its last hidden state."""
    layer = layer_traffic(config, stage, rows, batch, keys)
    return layer * config.num_layers + _sum(end_calls(config, stage, rows, batch)[:-1])


def _sum(calls: Sequence[CallTraffic]) -> Traffic:
    return Traffic(
        len(calls),
        sum(call.bytes_sent for call in calls),
        sum(call.bytes_received for call in calls),
    )


def live_bytes(
    config: ModelConfig, stage: Stage, tokens: int, batch: int = 1, keys: int | None = None
) -> int:
    """Shared memory that a forward pass needs, in bytes: no more is ever alive at once.

    ``keys`` is over how many positions attention extends, ``tokens`` by default.

    The attention step holds most: queries, keys, values, scores and weights; every other step is bounded by
    its own inputs and outputs. A quarter is added for gaps between slots, and the sum is rounded up so
    that a slightly longer prompt fits into the same memory.
    """
    size = stage.torch_dtype.itemsize
    rows = batch * tokens
    hidden = rows * config.hidden_size
    ends = batch * (config.hidden_size + config.vocab_size)
    if stage.granularity != "operation":
        return _roomy((3 * hidden + ends) * size + rows * TOKEN_ID_BYTES)
    query = rows * config.num_heads * config.head_dim
    key = rows * config.num_kv_heads * config.head_dim
    attention = 2 * (query + 2 * key) + 2 * rows * config.num_heads * (keys or tokens)
    mlp = 3 * rows * config.intermediate_size
    return _roomy((3 * hidden + max(attention, mlp) + ends) * size + rows * TOKEN_ID_BYTES)


def _roomy(size: int) -> int:
    return -(-(size + size // 4) // _STEP_BYTES) * _STEP_BYTES
