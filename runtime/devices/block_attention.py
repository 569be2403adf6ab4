"""Causal attention as products of whole blocks, for processors whose library multiplies bfloat16 well.

torch's fused attention for CPUs multiplies tiles that are too small for it: in bfloat16 it is no faster than in
float32. Here scores of a block of queries are one product; keys that all its queries come before take no part.
"""

from __future__ import annotations

import math

import torch

from runtime.devices.scratch import Scratch

_QUERIES = 256  # of a block: more would multiply what is masked, fewer would make products small


class BlockAttention:
    """Computes in ``dtype``; scores and weights of a block lie in ``scratch``."""

    def __init__(self, dtype: torch.dtype, scratch: Scratch) -> None:
        self._dtype, self._scratch = dtype, scratch
        # Minus infinity where a key comes after the query, within one block.
        self._after = torch.full((_QUERIES, _QUERIES), -math.inf, dtype=dtype).triu(1)

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Return softmax(Q K^T / sqrt(head size)) V under the causal mask, (batch, heads, rows, head size).

        ``queries`` are (batch, heads, rows, head size), ``keys`` and ``values`` (batch, KV heads, positions,
        head size), and the last query stands at the last position; heads that share a KV head are neighbours.
        The result is overwritten by the next call.
        """
        batch, heads, tokens, size = queries.shape
        kv_heads, before = keys.shape[1], keys.shape[2] - tokens
        # One product for all heads that share keys.
        grouped = queries.reshape(batch * kv_heads, heads // kv_heads, tokens, size)
        turned, values = keys.flatten(0, 1).transpose(1, 2), values.flatten(0, 1)
        out = self._empty("attended", batch, tokens, kv_heads, heads // kv_heads, size)
        for start in range(0, tokens, _QUERIES):
            end = min(tokens, start + _QUERIES)
            rows = grouped[:, :, start:end].flatten(1, 2)
            seen = before + end
            scores = self._empty("scores", batch * kv_heads, rows.shape[1], seen)
            # With beta 0, what lies in the memory of the scores does not count.
            torch.baddbmm(scores, rows, turned[:, :, :seen], beta=0, alpha=size**-0.5, out=scores)
            by_query = scores.view(batch * kv_heads, -1, end - start, seen)
            by_query[..., before + start :] += self._after[: end - start, : end - start]
            weights = self._empty("weights", *by_query.shape)
            torch.softmax(by_query, -1, out=weights)
            summed = torch.bmm(weights.flatten(1, 2), values[:, :seen])
            out[:, start:end] = summed.view(batch, kv_heads, -1, end - start, size).permute(
                0, 3, 1, 2, 4
            )
        return out.flatten(2, 3).transpose(1, 2)

    def _empty(self, name: str, *shape: int) -> torch.Tensor:
        return self._scratch.empty(name, shape, self._dtype)
