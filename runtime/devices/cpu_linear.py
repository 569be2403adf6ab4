"""Linear layers on the CPU: which matrix kernel is the fastest that is accurate enough.

On a processor with matrix tiles (Intel AMX) a float32 product is computed as three bfloat16 products that
are summed in float32: x = hi + lo, each half a bfloat16, and x w ~ hi hi' + hi lo' + lo hi'. What is left
out, lo lo', is below 2^-16 of the product. Source: Henry, Tang, Heinecke, Leveraging the bfloat16
Artificial Intelligence Datatype For Higher-Precision Computations, 2019.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from runtime.devices.scratch import Scratch

Gemm = Callable[..., None]


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer in the form that its kernel wants; ``weight`` is (out features, in features)."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    packed: tuple[torch.Tensor, ...] = ()


class LinearKernel(ABC):
    """Multiplies rows by packed weights. An input that several layers share is prepared once."""

    name: str

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
        """Bring a layer into the kernel's form."""
        return PackedLinear(weight, bias)

    def prepare(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Bring (rows, in features) into the kernel's form; valid until the next call."""
        return (x,)

    @abstractmethod
    def apply(
        self,
        prepared: Sequence[torch.Tensor],
        linear: PackedLinear,
        out: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> None:
        """Write x weight^T + bias, plus ``residual`` if given, into ``out`` (rows, out features)."""


class NativeLinear(LinearKernel):
    """The library's own matrix product."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.name = f"{str(dtype).removeprefix('torch.')} matrix products"

    def apply(
        self,
        prepared: Sequence[torch.Tensor],
        linear: PackedLinear,
        out: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> None:
        (x,) = prepared
        if residual is None:
            torch.mm(x, linear.weight.t(), out=out)
        else:
            torch.addmm(residual, x, linear.weight.t(), out=out)
        if linear.bias is not None:
            out.add_(linear.bias)


class SplitLinear(LinearKernel):
    """float32 through three bfloat16 products on matrix tiles. Few rows go to the library's float32."""

    name = "float32 as 3 bfloat16 products on AMX"
    _FEWEST_ROWS = 32  # below, reading the weights costs more than multiplying

    def __init__(self, scratch: Scratch, gemm: Gemm) -> None:
        self._scratch = scratch
        self._gemm = gemm
        self._native = NativeLinear(torch.float32)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
        high = weight.bfloat16()
        low = (weight - high.float()).bfloat16()
        # Weights that were bfloat16 once have no low half: one product less.
        return PackedLinear(weight, bias, (high, low) if low.any() else (high,))

    def prepare(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        if x.shape[0] < self._FEWEST_ROWS:
            return (x,)
        high = self._scratch.empty("split.high", x.shape, torch.bfloat16)
        low = self._scratch.empty("split.low", x.shape, torch.bfloat16)
        high.copy_(x)
        torch.sub(x, high, out=low)
        return (high, low)

    def apply(
        self,
        prepared: Sequence[torch.Tensor],
        linear: PackedLinear,
        out: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> None:
        if len(prepared) == 1:
            self._native.apply(prepared, linear, out, residual)
            return
        high, low = prepared
        accumulate = residual is not None
        if residual is not None and residual.data_ptr() != out.data_ptr():
            out.copy_(residual)
        # Small terms first, so that the large one does not swallow them.
        self._multiply(low, linear.packed[0], out, accumulate)
        for weight in reversed(linear.packed):
            self._multiply(high, weight, out, True)
        if linear.bias is not None:
            out.add_(linear.bias)

    def _multiply(
        self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, accumulate: bool
    ) -> None:
        rows, inner = x.shape
        columns = weight.shape[0]
        self._gemm(
            _ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE, rows, columns, inner,
            1.0, x.data_ptr(), x.stride(0), weight.data_ptr(), weight.stride(0),
            float(accumulate), out.data_ptr(), out.stride(0),
        )  # fmt: skip


# Values of the CBLAS interface.
_ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE = 101, 111, 112


def _load_mkl_gemm() -> Gemm | None:
    """Find MKL's bfloat16 product with a float32 result in the library that PyTorch ships with it.

    PyTorch itself offers no such product on the CPU: ``torch.mm`` rounds the result to bfloat16.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        gemm = ctypes.CDLL(str(library)).cblas_gemm_bf16bf16f32
    except (OSError, AttributeError):
        return None
    integer, real, pointer = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    gemm.argtypes = [
        integer, integer, integer, integer, integer, integer,
        real, pointer, integer, pointer, integer, real, pointer, integer,
    ]  # fmt: skip
    gemm.restype = None
    found: Gemm = gemm
    return found


def choose_linear_kernel(dtype: torch.dtype, scratch: Scratch) -> LinearKernel:
    """Return the fastest kernel that this processor has for ``dtype``; see the README for the figures."""
    if dtype == torch.float32 and torch.cpu._is_amx_tile_supported():
        gemm = _load_mkl_gemm()
        if gemm is not None:
            return SplitLinear(scratch, gemm)
    return NativeLinear(dtype)
