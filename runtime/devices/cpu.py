"""The CPU as the untrusted device."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch

from runtime.caches import Window
from runtime.checkpoints import Checkpoint
from runtime.devices.amx import AmxKernels, load_amx_kernels
from runtime.devices.base import Device, checked_ids
from runtime.devices.decode import MOST_ROWS, DecodeKernels
from runtime.devices.kv_cache import KvCache
from runtime.devices.layer_kernels import Activation, LayerKernels, Linear, TorchKernels
from runtime.devices.onednn import OneDnnKernels, has_onednn
from runtime.devices.scratch import Scratch
from runtime.devices.weights import layer_norms, linear_groups, stacked_linear
from runtime.nonlinear import rms_norm
from runtime.rope import RotaryEmbedding
from runtime.stages import Granularity

_BLOCK_ROWS = 1024  # of a product whose inputs and result stay in the last-level cache
_WORTH_SPLITTING = 1 << 22  # multiplications; below, waking the threads costs more than they save


class CpuDevice(Device):
    """Computes on the host; the shared memory is its own memory."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        granularity: Granularity,
        kernels: LayerKernels | None = None,
    ) -> None:
        """Pack the weights for ``kernels``, by default the fastest that this machine has."""
        super().__init__()
        self.dtype = dtype
        self.name = platform.processor() or platform.machine()
        self._config = checkpoint.config
        self._scratch = Scratch()
        self._kernels = kernels or choose_kernels(dtype, self._scratch)
        self.kernels = self._kernels.name
        if self._kernels.dtype != dtype:
            self.kernels = f"{str(dtype).removeprefix('torch.')} wire and weights, {self.kernels}"
        self._embeddings = checkpoint.tensor("model.embed_tokens.weight").to(dtype)
        tied = self._config.tie_word_embeddings
        self._head = self._embeddings if tied else checkpoint.tensor("lm_head.weight").to(dtype)
        groups = linear_groups(checkpoint, granularity)
        layers = range(self._config.num_layers)
        self._layers = [
            {
                name: self._packed(*stacked_linear(checkpoint, layer, modules, dtype))
                for name, modules in groups.items()
            }
            for layer in layers
        ]
        self._whole_layers = granularity != "operation"
        self._norms = [
            tuple(norm.to(self._kernels.dtype) for norm in layer_norms(checkpoint, layer, dtype))
            for layer in layers
        ]
        self._rope = RotaryEmbedding(self._config)
        self._summed: torch.Size | None = None  # shape of the residual sum that is remembered
        self._final_norm = checkpoint.tensor("model.norm.weight").to(dtype)
        self._decode = None if kernels else DecodeKernels.open(checkpoint, dtype, self._scratch)

    def _packed(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        computed = self._kernels.dtype
        return self._kernels.pack(weight.to(computed), None if bias is None else bias.to(computed))

    def embedding(self, token_ids: torch.Tensor, out: torch.Tensor) -> None:
        token_ids = checked_ids(token_ids, self._config.vocab_size)
        torch.index_select(
            self._embeddings, 0, token_ids.flatten(), out=out.view(-1, out.shape[-1])
        )

    def new_cache(self, batch: int, capacity: int) -> KvCache:
        dtype = self._kernels.dtype if self._whole_layers else self.dtype
        if self._decode:
            self._decode.load()
        promised = sum(cache.memory.nbytes for cache in self._caches.values())
        return KvCache.of(self._config, dtype, batch, capacity, promised)

    def batch_linear(
        self, layer: int, modules: Sequence[str], x: torch.Tensor, outputs: Sequence[torch.Tensor]
    ) -> None:
        rows = x.flatten(0, 1)
        if self._decode and self._decode.ready and len(rows) <= MOST_ROWS:
            for module, out in zip(modules, outputs, strict=True):
                self._decode.linear(layer, module, rows, out)
            return
        prepared = self._kernels.activation(rows.to(self._kernels.dtype))
        for module, out in zip(modules, outputs, strict=True):
            self._kernels.linear(prepared, self._layers[layer][module], out.flatten(0, 1))

    def matmul(
        self, a: torch.Tensor, b: torch.Tensor, transpose_b: bool, out: torch.Tensor
    ) -> None:
        multiply_matrices(a, b.transpose(1, 2) if transpose_b else b, out)

    def lm_head(self, x: torch.Tensor, out: torch.Tensor) -> None:
        if self._decode and len(x) <= MOST_ROWS:
            self._decode.product(self._head, None, x, out)
        else:
            torch.mm(x, self._head.t(), out=out)

    def fused_layer(self, layer: int, x: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        batch = len(x)
        x, out = x.view(batch * window.rows, -1), out.view(batch * window.rows, -1)
        cache = self._kept(window)
        if self._decode and cache and window.rows == 1:
            summed = self._scratch.empty("residual", x.shape, torch.float32)
            self._decode.layer(layer, x, out, summed, window, cache, self._rope)
            self._summed = x.shape
            return
        # The sum over all layers so far, and where this layer's terms are added to it.
        before, after = (x, out) if self.dtype == torch.float32 else self._recalled(x)
        self._layer(layer, before, after, batch, window)
        if after is not out:
            out.copy_(after)

    def all_layers(self, x: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        out.copy_(self._last_position(x, window))

    def next_logits(self, token_ids: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        token_ids = checked_ids(token_ids, self._config.vocab_size)
        # Rounded as where it crosses: the same logits, and of one seed the same tokens, as in other stages.
        last = self._last_position(self._embeddings[token_ids], window).to(self.dtype)
        normed = rms_norm(last, self._final_norm, self._config.rms_norm_eps, torch.empty_like(last))
        self.lm_head(normed, out)

    def _last_position(self, x: torch.Tensor, window: Window) -> torch.Tensor:
        """Run all layers over the residual (batch, rows, hidden), in float32; return the last rows (batch, hidden)."""
        batch, layers = len(x), range(self._config.num_layers)
        residual = self._scratch.empty("resident", x.shape, torch.float32).copy_(x).flatten(0, 1)
        cache = self._kept(window)
        if self._decode and cache and window.rows == 1:
            self._decode.layers(layers, residual, window, cache, self._rope)
            return residual
        for layer in layers[:-1]:
            self._layer(layer, residual, residual, batch, window)
        return self._layer(layers[-1], residual, residual, batch, window, last=True)

    def _layer(
        self,
        layer: int,
        before: torch.Tensor,
        after: torch.Tensor,
        batch: int,
        window: Window,
        *,
        last: bool = False,
    ) -> torch.Tensor:
        """Apply a layer to the residual sum (rows, hidden) into ``after``, which may be ``before`` itself.

        ``last`` computes only each prompt's last position, and returns those: (batch, hidden).
        """
        config, kernels, linears = self._config, self._kernels, self._layers[layer]
        attention_norm, mlp_norm = self._norms[layer]
        normed = kernels.normed(before, attention_norm, config.rms_norm_eps)
        attended = self._attention(layer, normed, linears["qkv"], batch, window, last)
        if last:
            ends = before.view(batch, window.rows, -1)[:, -1]
            before = after = self._scratch.empty("ends", ends.shape, before.dtype).copy_(ends)
        kernels.linear(kernels.activation(attended), linears["o"], after, residual=before)

        normed = kernels.normed(after, mlp_norm, config.rms_norm_eps)
        gate_up = kernels.linear(normed, linears["gate_up"])
        return kernels.linear(kernels.gated(gate_up), linears["down"], after, residual=after)

    def _recalled(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the float32 sum whose rounding ``x`` is, twice: it is added to in place.

        The wire rounds the residual sum to bfloat16 after each layer, and those errors add up to more than
        all others. So the device remembers what it rounded, and goes on from there if that comes back.
        """
        remembered = self._scratch.empty("residual", x.shape, torch.float32)
        if self._summed != x.shape or not torch.equal(remembered.to(x.dtype), x):
            remembered.copy_(x)
        self._summed = x.shape
        return remembered, remembered

    def _attention(
        self,
        layer: int,
        normed: Activation,
        linear: Linear,
        batch: int,
        window: Window,
        last: bool,
    ) -> torch.Tensor:
        """Causal self-attention; returns (rows, heads x head size), of the last positions only if so wanted."""
        config = self._config
        heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_dim
        all_heads = heads + 2 * kv_heads
        by_token = self._kernels.linear(normed, linear).view(batch, window.rows, all_heads, size)
        cos, sin = self._rope.tables(window.end, window.start, window.length)
        # Queries and keys turn by the same angles: one call for both.
        rotated = self._kernels.rotated(by_token, heads + kv_heads, cos, sin)
        keys, values = rotated[:, heads:], by_token[:, :, heads + kv_heads :].transpose(1, 2)
        cache = self._kept(window)
        if cache:
            keys, values = cache.append(layer, window, keys, values)
        queries = rotated[:, :heads]
        if last:
            queries = queries[:, :, -1:]
        attended = self._kernels.attended(queries, keys, values)
        return attended.transpose(1, 2).reshape(batch * queries.shape[2], heads * size)


def multiply_matrices(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """Multiply (matrices, rows, inner) by (matrices, inner, columns)."""
    if a[0].numel() * b.shape[-1] < _WORTH_SPLITTING:
        torch.bmm(a, b, out=out)
        return
    # All threads at one block of rows: bmm deals out whole matrices, and few may leave threads idle.
    for left, right, product in zip(a, b, out, strict=True):
        for rows, place in zip(left.split(_BLOCK_ROWS), product.split(_BLOCK_ROWS), strict=True):
            torch.mm(rows, right, out=place)


def choose_kernels(dtype: torch.dtype, scratch: Scratch) -> LayerKernels:
    """Return the fastest kernels that this machine has for weights of ``dtype``; the README has the figures.

    Without bfloat16 products in the processor, libraries refuse them or emulate them at a fraction of
    float32's speed: there, bfloat16 values are widened, and float32 is what the kernels compute in.
    """
    library = load_amx_kernels()
    if library is not None:
        return AmxKernels(dtype, scratch, library)
    computed = dtype if has_bfloat16_products() else torch.float32
    # In 256-bit registers oneDNN is no faster than torch's own product, which writes where it is told to:
    # a result of oneDNN lies in memory of its own, new to the process each time.
    if has_onednn() and _has("avx512_f"):
        return OneDnnKernels(computed, scratch)
    return TorchKernels(computed, scratch)


def has_bfloat16_products() -> bool:
    """Whether the processor has instructions that multiply bfloat16 (x86-64: AVX-512 or AMX; Arm: BF16)."""
    return _has("avx512_bf16", "amx_bf16", "bf16")


def _has(*instructions: str) -> bool:
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in instructions)
