"""oneDNN's products with weights in the blocked form that it multiplies fastest.

torch's default float32 product on an AMD processor is up to a third slower; the README has the figures.
"""

from __future__ import annotations

import torch

from runtime.devices.block_attention import BlockAttention
from runtime.devices.layer_kernels import Activation, Linear, TorchKernels
from runtime.devices.scratch import Scratch

_BLOCKS_FROM = 384  # tokens; below, torch's own attention is as fast
_TYPICAL_ROWS = 1024  # what the blocked form is chosen for; every number of rows is right


class OneDnnKernels(TorchKernels):
    """torch's operations, but for the products, and for long attention in bfloat16."""

    def __init__(self, dtype: torch.dtype, scratch: Scratch) -> None:
        super().__init__(dtype, scratch)
        self.name = f"{str(dtype).removeprefix('torch.')} products by oneDNN, weights prepacked"
        self._in_blocks = BlockAttention(dtype, scratch) if dtype == torch.bfloat16 else None

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
        return Linear(weight.shape[0], (packed,), bias)

    def linear(
        self,
        x: Activation,
        linear: Linear,
        out: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        (rows,), (weight,) = x.parts, linear.parts
        product = torch.ops.mkldnn._linear_pointwise(rows, weight, linear.bias, "none", [], "")
        return self._placed(product, out, residual)

    def attended(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        if self._in_blocks and queries.shape[2] >= _BLOCKS_FROM:
            return self._in_blocks(queries, keys, values)
        return super().attended(queries, keys, values)


def has_onednn() -> bool:
    """Whether this build of torch has the products, which are not part of its public interface."""
    operations = torch.ops.mkldnn
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and all(
        hasattr(operations, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
