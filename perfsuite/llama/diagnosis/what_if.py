"""``--what-if KEY=VALUE``: what a projection assumes, checked and applied to the stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from perfsuite.errors import UsageError
from perfsuite.llama.accelerators import load_accelerators
from perfsuite.llama.bursts import Pattern, patterns
from perfsuite.llama.cost_model import Accelerator, Assumptions
from perfsuite.llama.diagnosis.routes import ROUTES
from perfsuite.llama.workload import memory_of
from runtime.checkpoints import ModelConfig
from runtime.stages import Stage

T = TypeVar("T")

KEYS = ("transport", "device", "rpc", "dtype")
MOST_RPCS = 1_000_000

Dtype = Literal["float32", "bfloat16"]
_DTYPES: dict[str, Dtype] = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}


@dataclass(frozen=True)
class WhatIf:
    """What is assumed for all stages; None leaves it as it is."""

    texts: tuple[str, ...] = ()
    route: str | None = None
    accelerator: Accelerator | None = None
    rpc_count: int | None = None
    dtype: Dtype | None = None

    @property
    def assumptions(self) -> Assumptions:
        """What the cost model is told."""
        return Assumptions(self.route, self.accelerator, self.rpc_count)

    def stages(self, stages: Sequence[Stage]) -> list[Stage]:
        """Return the stages as they would be: other than now only by their element type."""
        if self.dtype is None:
            return list(stages)
        return [dataclasses.replace(stage, dtype=self.dtype) for stage in stages]

    def patterns(
        self, config: ModelConfig, stages: Sequence[Stage], tokens: int
    ) -> tuple[Pattern, ...]:
        """Return what must be measured for the projection: of a named device, nothing can be."""
        if not self.texts:
            return ()
        memory = memory_of(self.route) if self.route else None
        found = patterns(config, self.stages(stages), tokens, memory)
        if self.accelerator is None:
            return found
        return tuple(tuple(burst for burst in row if burst.side == "trusted") for row in found)


def parse_what_if(texts: Sequence[str]) -> WhatIf:
    """Read ``KEY=VALUE`` assumptions, at most one for each key.

    Raises:
        UsageError: naming the assumption that cannot be used, and what can.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS:
            raise UsageError(f"--what-if {text}: must be KEY=VALUE with one of {', '.join(KEYS)}")
        if key in found:
            raise UsageError(f"--what-if {text}: {key} is given twice")
        found[key] = value
    rpc = found.get("rpc")
    return WhatIf(
        texts=tuple(texts),
        route=_choose("transport", found.get("transport"), {route: route for route in ROUTES}),
        accelerator=_choose("device", found.get("device"), load_accelerators()),
        rpc_count=None if rpc is None else _count(rpc),
        dtype=_choose("dtype", found.get("dtype"), _DTYPES),
    )


def _choose(key: str, value: str | None, known: Mapping[str, T]) -> T | None:
    if value is None:
        return None
    if value not in known:
        raise UsageError(f"--what-if {key}={value}: choose one of {', '.join(known)}")
    return known[value]


def _count(text: str) -> int:
    count = int(text) if text.isascii() and text.isdecimal() else 0
    if not 0 < count <= MOST_RPCS:
        raise UsageError(f"--what-if rpc={text}: must be a whole number from 1 to {MOST_RPCS:,}")
    return count
