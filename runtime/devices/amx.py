"""Kernels for processors with matrix tiles, compiled from ``amx.c`` when they are first needed.

Where the processor has no tiles or the machine no C compiler, torch serves instead.
"""

from __future__ import annotations

import ctypes

import torch

from runtime.devices.compiled import compiled
from runtime.devices.layer_kernels import Activation, LayerKernels, Linear
from runtime.devices.scratch import Scratch

_FLAGS = (
    "-O3", "-fopenmp", "-shared", "-fPIC", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq",
    "-mavx512bf16", "-mamx-tile", "-mamx-bf16",
)  # fmt: skip
_TILE = 32  # rows, columns and inner elements are padded to multiples of this


class AmxKernels(LayerKernels):
    """bfloat16 products on matrix tiles, three of them for a float32 product; see ``amx.c``."""

    def __init__(self, dtype: torch.dtype, scratch: Scratch, library: ctypes.CDLL) -> None:
        self.dtype = dtype
        self._halves = 2 if dtype == torch.float32 else 1
        self.name = (
            "float32 as 3 bfloat16 products on AMX" if self._halves == 2 else "bfloat16 on AMX"
        )
        self._scratch = scratch
        self._library = library

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        high = weight.bfloat16()
        parts = [_panels(high)]
        if self._halves == 2:
            low = (weight - high.float()).bfloat16()
            # Weights that were bfloat16 once have no low half: one product less.
            if low.any():
                parts.append(_panels(low))
        return Linear(weight.shape[0], tuple(parts), None if bias is None else bias.float())

    def activation(self, x: torch.Tensor) -> Activation:
        rows, inner = x.shape
        made = self._empty(rows, inner)
        self._library.split(
            _pointer(x), _is_bf16(x), rows, inner, *_halves(made), made[0].stride(0)
        )
        return Activation(rows, made)

    def normed(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        rows, inner = x.shape
        made = self._empty(rows, inner)
        scale = weight.float()  # named, so that it lives until it has been read
        self._library.rms_norm(
            _pointer(x), _is_bf16(x), _pointer(scale), eps, rows, inner,
            *_halves(made), made[0].stride(0),
        )  # fmt: skip
        return Activation(rows, made)

    def gated(self, x: torch.Tensor) -> Activation:
        rows, inner = x.shape[0], x.shape[1] // 2
        made = self._empty(rows, inner)
        self._library.silu_mul(
            _pointer(x), _is_bf16(x), rows, inner, *_halves(made), made[0].stride(0)
        )
        return Activation(rows, made)

    def rotated(
        self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        batch, tokens, all_heads, size = x.shape
        self._library.rotate(
            _pointer(x), _is_bf16(x), batch * tokens, tokens, all_heads * size, heads, size // 2,
            _pointer(cos), _pointer(sin),
        )  # fmt: skip
        return x[:, :, :heads].transpose(1, 2)

    def linear(
        self,
        x: Activation,
        linear: Linear,
        out: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if out is None:
            out = self._scratch.empty("product", (x.rows, linear.columns), self.dtype)
        self._library.linear(
            *_halves(x.parts), x.rows, x.parts[0].shape[1], *_halves(linear.parts), linear.columns,
            _pointer(linear.bias), _pointer(residual), _pointer(out), _is_bf16(out),
        )  # fmt: skip
        return out

    def _empty(self, rows: int, inner: int) -> tuple[torch.Tensor, ...]:
        shape = (_padded(rows), _padded(inner))
        made = tuple(
            self._scratch.empty(f"activation.{half}", shape, torch.bfloat16)
            for half in range(self._halves)
        )
        for part in made:
            part[:, inner:] = 0
        return made


def load_amx_kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels, None where the processor or the machine cannot have them."""
    if not torch.cpu._is_amx_tile_supported() or not torch.cpu._init_amx():
        return None
    library = compiled("amx", _FLAGS)
    if library is None:
        return None
    pointer, flag, size, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float
    made = (pointer, pointer, size)
    for name, arguments in {
        "split": (pointer, flag, size, size, *made),
        "rms_norm": (pointer, flag, pointer, real, size, size, *made),
        "silu_mul": (pointer, flag, size, size, *made),
        "rotate": (pointer, flag, size, size, size, size, size, pointer, pointer),
        "linear": (
            pointer, pointer, size, size, pointer, pointer, size, pointer, pointer, pointer, flag,
        ),
    }.items():  # fmt: skip
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


def _panels(weight: torch.Tensor) -> torch.Tensor:
    """(columns, inner) -> per 32 columns and 32 inner elements, two tiles of (16 pairs, 16 columns, 2)."""
    columns, inner = weight.shape
    padded = weight.new_zeros(_padded(columns), _padded(inner))
    padded[:columns, :inner] = weight
    tiles = padded.view(_padded(columns) // 32, 2, 16, _padded(inner) // 32, 16, 2)
    return tiles.permute(0, 3, 1, 4, 2, 5).contiguous()


def _padded(size: int) -> int:
    return -(-size // _TILE) * _TILE


def _halves(parts: tuple[torch.Tensor, ...]) -> tuple[int, int | None]:
    return parts[0].data_ptr(), parts[1].data_ptr() if len(parts) == 2 else None


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _is_bf16(tensor: torch.Tensor) -> int:
    return int(tensor.dtype == torch.bfloat16)
