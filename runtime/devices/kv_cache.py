"""Memory of keys and values, as a device keeps it."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import torch

from runtime.caches import Window, cache_bytes
from runtime.checkpoints import ModelConfig
from runtime.errors import ProtocolError
from runtime.memory import available_bytes


@dataclass(frozen=True, slots=True, weakref_slot=True)
class KvCache:
    """Keys and values of all layers: (layers, 2, batch, KV heads, capacity, head size)."""

    memory: torch.Tensor

    @classmethod
    def of(
        cls, config: ModelConfig, dtype: torch.dtype, batch: int, capacity: int, promised: int = 0
    ) -> KvCache:
        """Take host memory, of which pages become real when they are first written to.

        It is mapped for this cache alone, and so given back with it: what an allocator keeps for its next user
        may stay with the process for ever. ``promised`` is the size of all other caches, in bytes: it may all
        be wanted yet.

        Raises:
            ProtocolError: if the machine has not enough.
        """
        size = cache_bytes(config, dtype.itemsize, batch, capacity)
        available = available_bytes() - promised
        if size > available:
            raise ProtocolError(
                "cache", f"needs {size:,} bytes, {max(0, available):,} are available"
            )
        shape = (config.num_layers, 2, batch, config.num_kv_heads, capacity, config.head_dim)
        try:
            memory = mmap.mmap(-1, size)
        except OSError as error:
            raise ProtocolError("cache", f"needs {size:,} bytes: {error.strerror}") from error
        return cls(torch.frombuffer(memory, dtype=dtype).view(shape))

    def keys(self, layer: int) -> torch.Tensor:
        """(batch, KV heads, capacity, head size)."""
        return self.memory[layer, 0]

    def values(self, layer: int) -> torch.Tensor:
        """(batch, KV heads, capacity, head size)."""
        return self.memory[layer, 1]

    def append(
        self, layer: int, window: Window, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep (batch, KV heads, rows, head size) of new positions; return all keys and values up to their end."""
        kept = self.keys(layer), self.values(layer)
        for place, new in zip(kept, (keys, values), strict=True):
            place[:, :, window.start : window.end] = new
        if not window.start:
            return keys, values  # as they are: those of the cache lie further apart
        return kept[0][:, :, : window.end], kept[1][:, :, : window.end]
