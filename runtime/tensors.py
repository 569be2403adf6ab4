"""What a tensor that crosses the boundary is: an element type and a shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType

import torch

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "int64": torch.int64}
)
DTYPE_NAMES: Mapping[torch.dtype, str] = MappingProxyType(
    {dtype: name for name, dtype in DTYPES.items()}
)

Payload = bytes | memoryview | int
"""What stands for a tensor's content in a message: its bytes, or its offset in the shared arena."""


@dataclass(frozen=True)
class TensorSpec:
    """Element type and shape of a dense, contiguous, row-major tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorSpec:
        """Describe ``tensor``."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @cached_property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{DTYPE_NAMES.get(self.dtype, self.dtype)}{list(self.shape)}"
