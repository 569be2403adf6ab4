"""The ladder as data: each row differs from the row above it by what the analysis changed, and by nothing else.

A row *beside* the ladder differs so from the one that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch

from runtime.errors import InputError

Granularity = Literal["operation", "layer", "model"]
Attention = Literal["trusted", "fused"]

_CLEAR_OPERATIONS = "token ids, all linear inputs and outputs, Q, K, V, attention weights, logits"
_CLEAR_LAYERS = "token ids, every hidden state, logits"


@dataclass(frozen=True, slots=True)
class Stage:
    """One rung of the ladder.

    ``granularity`` is what one RPC computes: a single operation, a whole decoder layer, or all of them.
    ``attention`` says where softmax runs: on the trusted side between two RPCs, or fused on the worker.
    ``worker_sees`` is what crosses the boundary in clear, in the order of a forward pass.
    ``beside`` names the row that this one differs from by one change, where that is not the row above it: such a
    row is run where it is asked for by its name, and is no rung of the ladder.
    """

    name: str
    transport: str
    granularity: Granularity
    dtype: Literal["float32", "bfloat16"]
    attention: Attention
    worker_sees: str
    beside: str = ""

    @property
    def torch_dtype(self) -> torch.dtype:
        """Element type of the weights and of every activation that crosses."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        stage.name: stage
        for stage in (
            Stage("baseline", "zmq-msgpack", "operation", "float32", "trusted", _CLEAR_OPERATIONS),
            Stage(
                "shared-memory",
                "shared-memory",
                "operation",
                "float32",
                "trusted",
                _CLEAR_OPERATIONS,
            ),
            Stage("fused", "shared-memory", "layer", "float32", "fused", _CLEAR_LAYERS),
            Stage("bf16", "shared-memory", "layer", "bfloat16", "fused", _CLEAR_LAYERS),
            Stage("resident", "shared-memory", "model", "bfloat16", "fused", _CLEAR_LAYERS),
            # For a worker on another host.
            Stage("fused-tcp", "zmq-frames", "layer", "float32", "fused", _CLEAR_LAYERS, "fused"),
        )
    }
)


def ladder() -> list[Stage]:
    """Return the rungs of the ladder, in order."""
    return [stage for stage in STAGES.values() if not stage.beside]


def find_stage(name: str) -> Stage:
    """Return the stage called ``name``.

    Raises:
        InputError: if there is no such stage.
    """
    given: object = name
    stage = STAGES.get(given) if isinstance(given, str) else None
    if stage is None:
        raise InputError(f"stage: {name!r} is unknown; choose one of {', '.join(STAGES)}")
    return stage
