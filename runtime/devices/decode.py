"""One new position at the speed at which memory gives the weights, compiled from ``decode.c`` when first needed.

Where the machine has no C compiler, what serves for prompts serves for single positions too.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, ClassVar

import torch

from runtime.caches import Window
from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.devices.compiled import compiled
from runtime.devices.huge_pages import use_huge_pages
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


class _Step:
    """One new position: what every layer is told of it."""

    def __init__(
        self,
        library: ctypes.CDLL,
        config: ModelConfig,
        dtype: torch.dtype,
        window: Window,
        cache: KvCache,
        rope: RotaryEmbedding,
        scratch: Scratch,
    ) -> None:
        self.window = window
        self.cache = weakref.ref(cache)  # which is given back when it is closed, not a step later
        _, _, batch, _, capacity, _ = cache.memory.shape
        self._shape = _Shape(
            config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim,
            config.intermediate_size, capacity, batch, window.start, dtype == torch.bfloat16,
            cache.memory.dtype == torch.bfloat16, config.rms_norm_eps,
        )  # fmt: skip
        self.threads = torch.get_num_threads()
        self._tables = rope.tables(window.end, window.start, window.length)
        self.cos, self.sin = (table.data_ptr() for table in self._tables)
        size = library.decode_work(ctypes.byref(self._shape), self.threads)
        self._memory = scratch.empty("decode", (size,), torch.float32)
        self.work = self._memory.data_ptr()
        self._keys = cache.memory.data_ptr()
        self._layer_bytes = cache.memory[0].nbytes

    def keys(self, layer: int) -> int:
        """Where a layer's cache begins."""
        return self._keys + layer * self._layer_bytes

    def place(self, layer: int, pointers: ctypes.Array[ctypes.c_void_p]) -> tuple[Any, int]:
        """Return the shape, and where the pointers of ``layer`` begin."""
        first = layer * _POINTERS * ctypes.sizeof(ctypes.c_void_p)
        return ctypes.byref(self._shape), ctypes.addressof(pointers) + first


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
        self._step: _Step | None = None

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
        library.decode_rounded.argtypes = (
            pointer, pointer, size, pointer, pointer, pointer, pointer, flag, pointer, pointer, pointer, flag,
        )  # fmt: skip
        library.decode_rounded.restype = None
        library.decode_layers.restype = library.few_rows.restype = None
        return cls(library, checkpoint, dtype, scratch)

    @property
    def ready(self) -> bool:
        """Whether the layers' weights are loaded."""
        return bool(self._weights)

    def load(self) -> None:
        """Read the layers' weights, once: they lie in memory beside those that are packed for prompts."""
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
        use_huge_pages(sum(weight.nbytes for weights in loaded for weight, _ in weights.values()))

    def layers(
        self, layers: range, x: torch.Tensor, window: Window, cache: KvCache, rope: RotaryEmbedding
    ) -> None:
        """Apply consecutive layers to the residual ``x`` (batch, hidden), float32, in place.

        The new position's keys and values are appended to ``cache``.
        """
        step = self._step_of(window, cache, rope)
        self._library.decode_layers(
            *step.place(layers[0], self._pointers), len(layers), step.keys(layers[0]), step.cos, step.sin,
            x.data_ptr(), step.work, step.threads,
        )  # fmt: skip

    def layer(
        self,
        layer: int,
        x: torch.Tensor,
        out: torch.Tensor,
        summed: torch.Tensor,
        window: Window,
        cache: KvCache,
        rope: RotaryEmbedding,
    ) -> None:
        """Apply one layer to ``x`` and write ``out``, both (batch, hidden) of the wire's type.

        ``summed``, (batch, hidden) float32, holds the sum that ``out`` rounds: the layer after goes on from there.
        """
        step = self._step_of(window, cache, rope)
        self._library.decode_rounded(
            *step.place(layer, self._pointers), 1, step.keys(layer), step.cos, step.sin, x.data_ptr(),
            x.dtype == torch.bfloat16, summed.data_ptr(), out.data_ptr(), step.work, step.threads,
        )  # fmt: skip

    def _step_of(self, window: Window, cache: KvCache, rope: RotaryEmbedding) -> _Step:
        """Return what all layers of a step have in common; made when the first asks."""
        if self._step is None or self._step.window != window or self._step.cache() is not cache:
            self._step = _Step(
                self._library, self._config, self._dtype, window, cache, rope, self._scratch
            )
        return self._step

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
