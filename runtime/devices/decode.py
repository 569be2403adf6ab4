"""One new position at the speed at which memory gives the weights, compiled from ``decode.c`` when first needed.

Where the machine has no C compiler, what serves for prompts serves for single positions too.
"""

from __future__ import annotations

import ctypes
from typing import ClassVar

import torch

from runtime.caches import Window
from runtime.checkpoints import Checkpoint
from runtime.devices.compiled import compiled
from runtime.devices.kv_cache import KvCache
from runtime.devices.scratch import Scratch
from runtime.devices.weights import layer_norms, stacked_linear
from runtime.operations import linear_shapes
from runtime.rope import RotaryEmbedding

MOST_ROWS = 8
"""Of a product that reads its weights but once; for more, those made for prompts are faster."""

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_FLAGS = (
    "-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno",
    "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros",
)  # fmt: skip

_POINTERS = 2 * len(_MODULES) + 2  # of a layer: weights, biases, norms; as in decode.c

_Weight = tuple[torch.Tensor, torch.Tensor | None]


class _Shape(ctypes.Structure):
    """``shape`` in decode.c."""

    _fields_: ClassVar = [
        *(
            (name, ctypes.c_long)
            for name in (
                "hidden", "heads", "kv_heads", "size", "inner", "capacity", "batch", "position",
            )
        ),
        ("bf16_weights", ctypes.c_int),
        ("bf16_cache", ctypes.c_int),
        ("eps", ctypes.c_float),
    ]  # fmt: skip


class DecodeKernels:
    """A model's weights, row by row, and what multiplies them by few rows of activations."""

    def __init__(
        self, library: ctypes.CDLL, checkpoint: Checkpoint, dtype: torch.dtype, scratch: Scratch
    ) -> None:
        self._library, self._checkpoint, self._scratch = library, checkpoint, scratch
        self._config, self._dtype = checkpoint.config, dtype
        self._weights: list[dict[str, _Weight]] = []
        self._norms: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._pointers = (ctypes.c_void_p * 0)()

    @classmethod
    def open(
        cls, checkpoint: Checkpoint, dtype: torch.dtype, scratch: Scratch
    ) -> DecodeKernels | None:
        """Return the kernels, None where the machine cannot compile them."""
        library = compiled("decode", _FLAGS)
        if library is None:
            return None
        pointer, flag, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
        library.decode_work.argtypes, library.decode_work.restype = (pointer, size), size
        library.decode_layers.argtypes = (
            pointer, pointer, size, pointer, pointer, pointer, pointer, pointer, flag,
        )  # fmt: skip
        library.few_rows.argtypes = (
            pointer, flag, pointer, size, size, pointer, size, pointer, flag, flag,
        )  # fmt: skip
        library.decode_layers.restype = library.few_rows.restype = None
        return cls(library, checkpoint, dtype, scratch)

    @property
    def ready(self) -> bool:
        """Whether the layers' weights are loaded."""
        return bool(self._weights)

    def load(self) -> None:
        """Read the layers' weights, once: float32 ones stay where the file is mapped, others take memory."""
        if self.ready:
            return
        loaded: list[dict[str, _Weight]] = []
        norms: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in range(self._config.num_layers):
            weights: dict[str, _Weight] = {}
            for module in linear_shapes(self._config):
                weight, bias = stacked_linear(self._checkpoint, layer, (module,), self._dtype)
                weights[module] = weight.contiguous(), None if bias is None else bias.float()
            before_attention, before_mlp = layer_norms(self._checkpoint, layer, self._dtype)
            norms.append((before_attention.float(), before_mlp.float()))
            loaded.append(weights)
        pointers = [
            _pointer(part)
            for weights, norm in zip(loaded, norms, strict=True)
            for part in (
                *(weights[module][0] for module in _MODULES),
                *(weights[module][1] for module in _MODULES),
                *norm,
            )
        ]
        self._pointers = (ctypes.c_void_p * len(pointers))(*pointers)
        # At last: weights of which some are missing, for want of memory, must not be taken for ready.
        self._norms, self._weights = norms, loaded

    def layers(
        self,
        layers: range,
        x: torch.Tensor,
        window: Window,
        cache: KvCache,
        rope: RotaryEmbedding,
    ) -> None:
        """Apply consecutive layers to the residual ``x`` (batch, hidden), float32, in place.

        The new position's keys and values are appended to ``cache``.
        """
        config = self._config
        _, _, batch, _, capacity, _ = cache.memory.shape
        shape = _Shape(
            config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim,
            config.intermediate_size, capacity, batch, window.start, self._dtype == torch.bfloat16,
            cache.memory.dtype == torch.bfloat16, config.rms_norm_eps,
        )  # fmt: skip
        cos, sin = rope.tables(window.end, window.start, window.length)
        threads = torch.get_num_threads()
        size = self._library.decode_work(ctypes.byref(shape), threads)
        work = self._scratch.empty("decode", (size,), torch.float32)
        first = layers[0] * _POINTERS * ctypes.sizeof(ctypes.c_void_p)
        self._library.decode_layers(
            ctypes.byref(shape), ctypes.addressof(self._pointers) + first, len(layers),
            cache.keys(layers[0]).data_ptr(), cos.data_ptr(), sin.data_ptr(), x.data_ptr(), work.data_ptr(),
            threads,
        )  # fmt: skip

    def linear(self, layer: int, module: str, x: torch.Tensor, out: torch.Tensor) -> None:
        """Apply a module to ``x`` (rows, in features)."""
        weight, bias = self._weights[layer][module]
        self.product(weight, bias, x, out)

    def product(
        self, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Write x weight^T + bias into ``out`` (rows, out features)."""
        wide = x.float()  # named, so that it lives until it has been read
        self._library.few_rows(
            weight.data_ptr(), weight.dtype == torch.bfloat16, _pointer(bias), *weight.shape,
            wide.data_ptr(), len(wide), out.data_ptr(), out.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )  # fmt: skip


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
