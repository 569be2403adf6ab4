"""The payload of a forward pass in closed form: calls and bytes, from the model's configuration alone.

The measured traffic must equal these numbers to the byte; nothing here looks at what the runtime does.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.checkpoints import ModelConfig
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


def layer_traffic(config: ModelConfig, stage: Stage, tokens: int, batch: int = 1) -> Traffic:
    """Payload of one decoder layer for ``batch`` prompts of ``tokens`` tokens."""
    rows = batch * tokens
    size = stage.torch_dtype.itemsize
    hidden = rows * config.hidden_size
    if stage.granularity == "layer":
        return Traffic(1, hidden * size, hidden * size)
    query = rows * config.num_heads * config.head_dim
    key = rows * config.num_kv_heads * config.head_dim
    scores = rows * config.num_heads * tokens
    inner = rows * config.intermediate_size
    sent_received = (
        (hidden, query + 2 * key),  # q, k, v
        (query + key, scores),  # Q K^T
        (scores + key, query),  # attention weights V
        (query, hidden),  # o
        (hidden, 2 * inner),  # gate, up
        (inner, hidden),  # down
    )
    return Traffic(
        len(sent_received),
        sum(sent for sent, _ in sent_received) * size,
        sum(received for _, received in sent_received) * size,
    )


def forward_traffic(config: ModelConfig, stage: Stage, tokens: int, batch: int = 1) -> Traffic:
    """Payload of a whole forward pass: embedding, every layer, and the last position's logits."""
    size = stage.torch_dtype.itemsize
    embedding = Traffic(
        1, batch * tokens * TOKEN_ID_BYTES, batch * tokens * config.hidden_size * size
    )
    lm_head = Traffic(1, batch * config.hidden_size * size, batch * config.vocab_size * size)
    return embedding + layer_traffic(config, stage, tokens, batch) * config.num_layers + lm_head


def live_bytes(config: ModelConfig, stage: Stage, tokens: int, batch: int = 1) -> int:
    """Shared memory that a forward pass needs, in bytes: no more is ever alive at once.

    The attention step holds most: queries, keys, values, scores and weights; every other step is bounded by
    its own inputs and outputs. A quarter is added for gaps between slots, and the sum is rounded up so
    that a slightly longer prompt fits into the same memory.
    """
    size = stage.torch_dtype.itemsize
    rows = batch * tokens
    hidden = rows * config.hidden_size
    ends = batch * (config.hidden_size + config.vocab_size)
    if stage.granularity == "layer":
        return _roomy((3 * hidden + ends) * size + rows * TOKEN_ID_BYTES)
    query = rows * config.num_heads * config.head_dim
    key = rows * config.num_kv_heads * config.head_dim
    attention = 2 * (query + 2 * key) + 2 * rows * config.num_heads * tokens
    mlp = 3 * rows * config.intermediate_size
    return _roomy((3 * hidden + max(attention, mlp) + ends) * size + rows * TOKEN_ID_BYTES)


def _roomy(size: int) -> int:
    return -(-(size + size // 4) // _STEP_BYTES) * _STEP_BYTES
