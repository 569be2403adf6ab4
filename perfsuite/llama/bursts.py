"""How a forward pass alternates: what each side computes in a row, and what happens between two calls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from perfsuite.llama.recording import operations
from perfsuite.llama.workload import Memory, Operation, Side
from runtime.checkpoints import ModelConfig
from runtime.stages import Stage
from runtime.traffic import forward_traffic


@dataclass(frozen=True, slots=True)
class Burst:
    """Operations that one side runs in a row, between two waits for the other side."""

    side: Side
    operations: tuple[Operation, ...]

    @property
    def layers(self) -> int:
        """In how many layers of a forward pass it occurs; 1 at the ends."""
        return self.operations[0].times


Pattern = tuple[Burst, ...]
"""The bursts of both sides in the order of a forward pass, those of its equal layers once."""


def patterns(
    config: ModelConfig, stages: Iterable[Stage], tokens: int, memory: Memory | None = None
) -> tuple[Pattern, ...]:
    """List the distinct patterns of these stages over one prompt; ``memory`` as in ``operations``."""
    found: dict[Pattern, None] = {}
    for stage in stages:
        rows = operations(config, stage, tokens, memory)
        # Layers that one call computes are bursts of their own: they are more than what is before and after them.
        by_call = groupby(rows, lambda row: (row.side, row.call, row.times))
        found[tuple(Burst(side, tuple(group)) for (side, *_), group in by_call)] = None
    return tuple(found)


def trusted_patterns(config: ModelConfig, stages: Iterable[Stage]) -> tuple[Pattern, ...]:
    """List what the trusted side computes for a single token: one row, with no keys before it."""
    found = {
        tuple(burst for burst in pattern if burst.side == "trusted"): None
        for pattern in patterns(config, stages, 1)
    }
    return tuple(pattern for pattern in found if pattern)


def weights_apart(pattern: Pattern, least_bytes: int) -> int:
    """Return of how many layers a run must hold the weights, at most of all.

    Between two uses of the same weights it then walks through ``least_bytes`` of others, as a forward pass does.
    """
    layer = [row for burst in pattern if burst.layers > 1 for row in burst.operations]
    one = sum(row.weight_bytes for row in layer)
    return min(layer[0].times, math.ceil(least_bytes / one)) if one else 1


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
