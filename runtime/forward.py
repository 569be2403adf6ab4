"""The trusted side's forward pass, written once for all stages: it keeps the non-linear operations to itself.

Shapes in comments: B prompts, S tokens, H heads, KV key/value heads, G = H / KV, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch

from runtime.caches import Window
from runtime.checkpoints import Checkpoint
from runtime.devices.weights import layer_norms
from runtime.nonlinear import apply_rope, causal_softmax, rms_norm, silu_mul
from runtime.operations import Call
from runtime.rope import RotaryEmbedding
from runtime.rpc import RpcClient
from runtime.stages import Stage
from runtime.tensors import TensorSpec


class ForwardPass:
    """Computes logits: what a stage lets the worker do is called, the rest is done here."""

    def __init__(self, checkpoint: Checkpoint, stage: Stage, rpc: RpcClient) -> None:
        """Take the norms' weights from ``checkpoint``; the worker behind ``rpc`` has the others."""
        self.config, self.stage = checkpoint.config, stage
        self._rpc = rpc
        dtype = stage.torch_dtype
        self._rope = RotaryEmbedding(self.config)
        self._final_norm = checkpoint.tensor("model.norm.weight").to(dtype)
        self._norms = [
            layer_norms(checkpoint, layer, dtype) for layer in range(self.config.num_layers)
        ]

    def logits(self, ids: torch.Tensor, window: Window) -> torch.Tensor:
        """(B, S) token ids -> (B, vocabulary), float32: those of each prompt's last position.

        ``window`` says where the S positions stand, and in which cache.

        Raises:
            WorkerError, ProtocolError: as ``RpcClient.call``.
        """
        if self.stage.granularity == "model" and window.start and ids.shape[1] == 1:
            (logits,) = self._rpc.call(
                Call("next_logits"), self._crossing(ids), cache=window.numbers
            )
        else:
            hidden = self._hidden(ids, window)
            last = self._normed(hidden, self._final_norm)
            (logits,) = self._rpc.call(Call("lm_head"), last)
        # A copy of the caller's own: the worker can still write to where the logits lie.
        return logits.to(torch.float32, copy=True)

    def append(self, ids: torch.Tensor, window: Window) -> None:
        """Compute (B, S) token ids into the window's cache, and nothing more: others follow."""
        self._hidden(ids, window)

    def _hidden(self, ids: torch.Tensor, window: Window) -> torch.Tensor:
        """(B, S) token ids -> (B, hidden) after the last layer, of each prompt's last position."""
        (hidden,) = self._rpc.call(Call("embedding"), self._crossing(ids))  # (B, S, hidden)
        if self.stage.granularity == "model":
            (last,) = self._rpc.call(Call("all_layers"), hidden, cache=window.numbers)
            return last
        run_layer = _LAYERS[self.stage.granularity]
        for layer in range(self.config.num_layers):
            hidden = run_layer(self, layer, hidden, window)
        return hidden[:, -1]

    def _crossing(self, ids: torch.Tensor) -> torch.Tensor:
        return self._empty(ids.shape, torch.int64).copy_(ids)

    def _layer_at_once(self, layer: int, hidden: torch.Tensor, window: Window) -> torch.Tensor:
        (hidden,) = self._rpc.call(Call("fused_layer", layer), hidden, cache=window.numbers)
        return hidden

    def _layer_by_operations(
        self, layer: int, hidden: torch.Tensor, window: Window
    ) -> torch.Tensor:
        attention_norm, mlp_norm = self._norms[layer]
        normed = self._normed(hidden, attention_norm)
        # Nobody here holds queries, keys and values longer than attention needs them: see ``live_bytes``.
        attended = self._attention(
            layer, window, *self._linear(layer, normed, "q_proj", "k_proj", "v_proj")
        )
        (projected,) = self._linear(layer, attended, "o_proj")
        del normed, attended
        hidden = torch.add(hidden, projected)
        gate, up = self._linear(layer, self._normed(hidden, mlp_norm), "gate_proj", "up_proj")
        inner = silu_mul(gate, up, self._empty(gate.shape))
        del gate, up
        (projected,) = self._linear(layer, inner, "down_proj")
        return hidden.add_(projected)

    def _attention(
        self,
        layer: int,
        window: Window,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """(B, S, H D), (B, S, KV D), (B, S, KV D) -> (B, S, H D).

        The worker keeps keys and values that it was given before, if the window has a cache.
        """
        batch, tokens, _ = query.shape
        heads, kv_heads, size = (
            self.config.num_heads,
            self.config.num_kv_heads,
            self.config.head_dim,
        )
        matrices, group = batch * kv_heads, heads // kv_heads
        cos, sin = self._rope.tables(window.end, window.start, window.length)

        def by_head(x: torch.Tensor, count: int) -> torch.Tensor:
            return x.view(batch, tokens, count, size).transpose(1, 2)  # (B, H or KV, S, D)

        # Query heads that share a key head are further rows of one product: (B KV, G S, D).
        queries = self._empty((batch, heads, tokens, size))
        scale = size**-0.5  # of the scores, put where it costs least
        apply_rope(by_head(query, heads), cos * scale, sin * scale, queries)
        keys = apply_rope(
            by_head(key, kv_heads), cos, sin, self._empty((batch, kv_heads, tokens, size))
        )
        values = self._empty((batch, kv_heads, tokens, size)).copy_(by_head(value, kv_heads))
        (scores,) = self._rpc.call(
            Call("matmul", layer, transpose_b=True),
            queries.view(matrices, group * tokens, size),
            keys.view(matrices, tokens, size),
            cache=window.numbers,
        )
        del queries, keys
        weights = self._empty(scores.shape)
        by_row = (batch * heads, tokens, window.end)
        causal_softmax(scores.view(by_row), weights.view(by_row))
        del scores
        (attended,) = self._rpc.call(
            Call("matmul", layer),
            weights,
            values.view(matrices, tokens, size),
            cache=window.numbers,
        )
        del weights
        joined = self._empty((batch, tokens, heads * size))
        by_head(joined, heads).copy_(attended.view(batch, heads, tokens, size))
        return joined

    def _linear(self, layer: int, x: torch.Tensor, *modules: str) -> Sequence[torch.Tensor]:
        return self._rpc.call(Call("batch_linear", layer, modules), x)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, self.config.rms_norm_eps, self._empty(x.shape))

    def _empty(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return memory for a tensor that will cross."""
        return self._rpc.channel.empty(TensorSpec(dtype or self.stage.torch_dtype, tuple(shape)))


_RunLayer = Callable[[ForwardPass, int, torch.Tensor, Window], torch.Tensor]
_LAYERS: Mapping[str, _RunLayer] = MappingProxyType(
    {"operation": ForwardPass._layer_by_operations, "layer": ForwardPass._layer_at_once}
)
"""How a decoder layer is run, by the granularity of the stages that run one at a time."""
