"""What a tensor that crosses the boundary is: an element type and a shape."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from math import prod
from types import MappingProxyType

import torch
from msgspec import Struct

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "int64": torch.int64}
)
DTYPE_NAMES: Mapping[torch.dtype, str] = MappingProxyType(
    {dtype: name for name, dtype in DTYPES.items()}
)

Payload = bytes | memoryview | int
"""What stands for a tensor's content in a message: its bytes, or its offset in the shared arena."""


class TensorSpec(Struct, frozen=True, dict=True):
    """Element type and shape of a dense, contiguous, row-major tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorSpec:
        """Describe ``tensor``."""
        return remembered_spec(tensor.dtype, tensor.shape)

    @cached_property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{DTYPE_NAMES.get(self.dtype, self.dtype)}{list(self.shape)}"


@lru_cache(maxsize=1024)
def remembered_spec(dtype: torch.dtype, shape: tuple[int, ...]) -> TensorSpec:
    """Return the spec, the same object each time: the calls of one layer are those of the layer before."""
    return TensorSpec(dtype, tuple(shape))
