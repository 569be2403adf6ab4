"""What a decoder layer needs of a CPU, and how torch alone provides it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from runtime import nonlinear
from runtime.devices.scratch import Scratch


@dataclass(frozen=True, slots=True)
class Activation:
    """Rows that are ready to be multiplied, in the form of the kernels that made them.

    Valid until the same kernels make the next one: they share its memory.
    """

    rows: int
    parts: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer in the form of the kernels that packed it. ``bias`` is (out features,)."""

    columns: int
    parts: tuple[torch.Tensor, ...]
    bias: torch.Tensor | None


class LayerKernels(ABC):
    """Makes activations, multiplies them by packed weights, and turns heads. All tensors are contiguous."""

    name: str
    """For people to read."""
    dtype: torch.dtype
    """Element type of the weights to pack, and of all that is multiplied; sums may be more exact."""

    @abstractmethod
    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """Bring a weight (out features, in features) into the kernels' form."""

    @abstractmethod
    def activation(self, x: torch.Tensor) -> Activation:
        """Prepare ``x`` (rows, features) as it is."""

    @abstractmethod
    def normed(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        """Prepare the RMS norm of ``x`` (rows, features)."""

    @abstractmethod
    def gated(self, x: torch.Tensor) -> Activation:
        """Prepare silu(gate) x up of ``x`` (rows, gate features then up features)."""

    @abstractmethod
    def rotated(
        self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """Return the first heads of ``x`` (batch, tokens, all heads, head size) with RoPE applied.

        The result is (batch, heads, tokens, head size) and may lie where those heads lay; the other heads
        stay as they are. ``cos`` and ``sin`` are (tokens, half of head size), float32.
        """

    @abstractmethod
    def linear(
        self,
        x: Activation,
        linear: Linear,
        out: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return x weight^T + bias (rows, out features), plus ``residual`` where given.

        It is written into ``out``; without that, it is of the kernels' own type and valid until the next
        product without ``out``. ``residual`` has the element type of the result, and may be ``out`` itself.
        """

    def attended(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Return causal attention, (batch, heads, rows, head size); valid until the next call.

        ``queries`` are (batch, heads, rows, head size), ``keys`` and ``values`` (batch, KV heads, positions, head
        size), all of them of the kernels' own type. The last query stands at the last position.
        """
        rows, positions = queries.shape[2], keys.shape[2]
        mask = None
        if 1 < rows < positions:
            mask = queries.new_zeros(rows, positions)
            mask[:, positions - rows :].fill_(-math.inf).triu_(1)
        return functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=rows == positions,
            enable_gqa=keys.shape[1] != queries.shape[1],
        )


class TorchKernels(LayerKernels):
    """torch's own operations: for every processor."""

    def __init__(self, dtype: torch.dtype, scratch: Scratch) -> None:
        self.name = f"{str(dtype).removeprefix('torch.')} products by torch"
        self.dtype = dtype
        self._scratch = scratch

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return Linear(weight.shape[0], (weight,), bias)

    def activation(self, x: torch.Tensor) -> Activation:
        return Activation(x.shape[0], (x,))

    def normed(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        # In the residual sum's own precision, and rounded once.
        made = nonlinear.rms_norm(x, weight, eps, self._scratch.empty("norm", x.shape, x.dtype))
        return self.activation(made.to(weight.dtype))

    def gated(self, x: torch.Tensor) -> Activation:
        gate, up = x.chunk(2, dim=-1)
        return self.activation(
            nonlinear.silu_mul(gate, up, self._scratch.empty("gated", gate.shape, x.dtype))
        )

    def rotated(
        self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        batch, tokens, _, size = x.shape
        # Head after head: torch's attention reads its queries and keys fastest so.
        out = self._scratch.empty("rotated", (batch, heads, tokens, size), x.dtype)
        turning = x[:, :, :heads].transpose(1, 2)
        return nonlinear.apply_rope(turning, cos.to(x.dtype), sin.to(x.dtype), out)

    def linear(
        self,
        x: Activation,
        linear: Linear,
        out: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        (rows,), (weight,) = x.parts, linear.parts
        product = out
        if product is None or product.dtype != rows.dtype or residual is not None:
            product = self._scratch.empty("product", (x.rows, linear.columns), rows.dtype)
        torch.mm(rows, weight.t(), out=product)
        if linear.bias is not None:
            product.add_(linear.bias)
        return self._placed(product, out, residual)

    def _placed(
        self, product: torch.Tensor, out: torch.Tensor | None, residual: torch.Tensor | None
    ) -> torch.Tensor:
        """Bring a product to where it belongs."""
        if residual is not None:
            return torch.add(residual, product, out=out)
        return product if out is None or product is out else out.copy_(product)
