"""How a forward pass alternates: what one side computes in a row, and what happens between two calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from perfsuite.workload import Memory, Operation, Side, operations
from runtime.checkpoints import ModelConfig
from runtime.stages import Stage
from runtime.traffic import forward_traffic


@dataclass(frozen=True, slots=True)
class Burst:
    """Operations that one side runs in a row, between two waits for the other side."""

    side: Side
    operations: tuple[Operation, ...]


def bursts(
    config: ModelConfig,
    stages: Iterable[Stage],
    lengths: Iterable[int],
    memory: Memory | None = None,
) -> tuple[Burst, ...]:
    """List the distinct bursts of forward passes of these stages over prompts of these lengths, in order.

    ``memory`` as in ``operations``.
    """
    found: dict[Burst, None] = {}
    for tokens in lengths:
        for stage in stages:
            rows = operations(config, stage, tokens, memory)
            for side, row in groupby(rows, lambda each: each.side):
                found[Burst(side, tuple(row))] = None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Between:
    """What the sides do between two calls of a forward pass, on average, in bytes walked through and FLOPs."""

    trusted_bytes: int
    device_bytes: int
    device_flops: int


def between_calls(config: ModelConfig, stage: Stage, tokens: int) -> Between:
    """Return what both sides do between two calls of ``stage``, over one prompt."""
    rows = operations(config, stage, tokens)
    calls = forward_traffic(config, stage, tokens).rpc_count
    return Between(
        sum(row.bytes * row.times for row in rows if row.side == "trusted") // calls,
        sum(row.bytes * row.times for row in rows if row.side == "device") // calls,
        sum(row.flops * row.times for row in rows) // calls,
    )
