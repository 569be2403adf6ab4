"""What a decoder layer needs of a CPU, and how torch alone provides it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

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
    def rotate(self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Apply RoPE in place to the first heads of ``x`` (batch, tokens, all heads, head size).

        ``cos`` and ``sin`` are (tokens, half of head size), float32.
        """

    @abstractmethod
    def linear(
        self, x: Activation, linear: Linear, out: torch.Tensor, residual: torch.Tensor | None = None
    ) -> None:
        """Write x weight^T + bias into ``out`` (rows, out features), plus ``residual`` where given.

        ``residual`` has the element type of ``out``, and may be ``out`` itself.
        """


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

    def rotate(self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        turning = x[:, :, :heads].transpose(1, 2)
        batch, tokens, _, size = x.shape
        turned = self._scratch.empty("turned", (batch, heads, tokens, size), x.dtype)
        turning.copy_(nonlinear.apply_rope(turning, cos.to(x.dtype), sin.to(x.dtype), turned))

    def linear(
        self, x: Activation, linear: Linear, out: torch.Tensor, residual: torch.Tensor | None = None
    ) -> None:
        (rows,), (weight,) = x.parts, linear.parts
        product = out
        if residual is not None or out.dtype != rows.dtype:
            product = self._scratch.empty("product", out.shape, rows.dtype)
        torch.mm(rows, weight.t(), out=product)
        if linear.bias is not None:
            product.add_(linear.bias)
        if residual is not None:
            torch.add(residual, product, out=out)
        elif product is not out:
            out.copy_(product)
