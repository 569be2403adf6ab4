"""The CPU as the untrusted device."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
import torch.nn.functional as functional

from runtime.checkpoints import Checkpoint
from runtime.devices.base import Device
from runtime.devices.cpu_linear import PackedLinear, choose_linear_kernel
from runtime.devices.scratch import Scratch
from runtime.devices.weights import layer_norms, linear_groups, stacked_linear
from runtime.errors import ProtocolError
from runtime.nonlinear import apply_rope, rms_norm, silu_mul
from runtime.rope import RotaryEmbedding
from runtime.stages import Granularity


class CpuDevice(Device):
    """Runs every operation with torch on the host; the shared memory is its own memory."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, granularity: Granularity
    ) -> None:
        self.dtype = dtype
        self.name = platform.processor() or platform.machine()
        self._config = checkpoint.config
        self._scratch = Scratch()
        self._kernel = choose_linear_kernel(dtype, self._scratch)
        self.kernels = self._kernel.name
        self._embeddings = checkpoint.tensor("model.embed_tokens.weight").to(dtype)
        self._head = checkpoint.tensor("lm_head.weight").to(dtype)
        groups = linear_groups(checkpoint, granularity)
        layers = range(self._config.num_layers)
        self._layers = [
            {
                name: self._kernel.pack(*stacked_linear(checkpoint, layer, modules, dtype))
                for name, modules in groups.items()
            }
            for layer in layers
        ]
        self._norms = [layer_norms(checkpoint, layer, dtype) for layer in layers]
        self._rope = RotaryEmbedding(self._config)

    def embedding(self, token_ids: torch.Tensor, out: torch.Tensor) -> None:
        if int(token_ids.min()) < 0 or int(token_ids.max()) >= self._config.vocab_size:
            raise ProtocolError(
                "inputs[0]", f"a token id is not in 0..{self._config.vocab_size - 1}"
            )
        torch.index_select(
            self._embeddings, 0, token_ids.flatten(), out=out.view(-1, out.shape[-1])
        )

    def batch_linear(
        self, layer: int, modules: Sequence[str], x: torch.Tensor, outputs: Sequence[torch.Tensor]
    ) -> None:
        prepared = self._kernel.prepare(x.flatten(0, 1))
        for module, out in zip(modules, outputs, strict=True):
            self._kernel.apply(prepared, self._layers[layer][module], out.flatten(0, 1))

    def matmul(
        self, a: torch.Tensor, b: torch.Tensor, transpose_b: bool, out: torch.Tensor
    ) -> None:
        torch.bmm(a, b.transpose(1, 2) if transpose_b else b, out=out)

    def lm_head(self, x: torch.Tensor, out: torch.Tensor) -> None:
        torch.mm(x, self._head.t(), out=out)

    def fused_layer(self, layer: int, x: torch.Tensor, out: torch.Tensor) -> None:
        config, linears = self._config, self._layers[layer]
        attention_norm, mlp_norm = self._norms[layer]
        batch, tokens, _ = x.shape
        rows = batch * tokens
        x, out = x.view(rows, -1), out.view(rows, -1)
        normed = self._empty("normed", rows, config.hidden_size)

        rms_norm(x, attention_norm, config.rms_norm_eps, normed)
        attended = self._attention(normed, linears["qkv"], batch, tokens)
        self._linear(attended, linears["o"], out, residual=x)

        rms_norm(out, mlp_norm, config.rms_norm_eps, normed)
        gate_up = self._empty("gate_up", rows, 2 * config.intermediate_size)
        self._linear(normed, linears["gate_up"], gate_up)
        inner = self._empty("inner", rows, config.intermediate_size)
        gate, up = gate_up.chunk(2, dim=-1)
        silu_mul(gate, up, inner)
        self._linear(inner, linears["down"], out, residual=out)

    def _empty(self, name: str, *shape: int) -> torch.Tensor:
        return self._scratch.empty(name, shape, self.dtype)

    def _linear(
        self,
        x: torch.Tensor,
        linear: PackedLinear,
        out: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> None:
        self._kernel.apply(self._kernel.prepare(x), linear, out, residual)

    def _attention(
        self, normed: torch.Tensor, linear: PackedLinear, batch: int, tokens: int
    ) -> torch.Tensor:
        """Causal self-attention of (rows, hidden); returns (rows, heads x head size)."""
        config = self._config
        rows = batch * tokens
        heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_dim
        projected = self._empty("qkv", rows, (heads + 2 * kv_heads) * size)
        self._linear(normed, linear, projected)
        by_head = projected.view(batch, tokens, heads + 2 * kv_heads, size).transpose(1, 2)

        cos, sin = self._rope.tables(tokens)
        half = size // 2
        # Queries and keys turn by the same angles: one call for both.
        rotated = self._empty("rotated", batch, tokens, heads + kv_heads, size).transpose(1, 2)
        apply_rope(
            by_head[:, : heads + kv_heads],
            cos[:, :half].to(self.dtype),
            sin[:, :half].to(self.dtype),
            rotated,
        )
        attended = functional.scaled_dot_product_attention(
            rotated[:, :heads],
            rotated[:, heads:],
            by_head[:, heads + kv_heads :],
            is_causal=True,
            enable_gqa=kv_heads != heads,
        )
        return attended.transpose(1, 2).reshape(rows, heads * size)
