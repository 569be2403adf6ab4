"""Memory that a device uses again for each layer and each forward, so that no page is faulted in twice."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch


class Scratch:
    """Named buffers that grow to the largest size asked for and never shrink."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def empty(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return the buffer ``name`` in this shape; what an earlier call returned is overwritten."""
        size = prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(size, dtype=dtype)
            self._buffers[name, dtype] = buffer
        return buffer[:size].view(*shape)
