"""What lies between the matrix products of a LLaMA layer: each writes into memory that the caller gives."""

from __future__ import annotations

from functools import lru_cache

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> torch.Tensor:
    """Scale (..., features) by the root of its mean square over features, then by ``weight``.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019. The mean is taken in float32.
    """
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
    scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()
    torch.mul(x, scale, out=out)
    return out.mul_(weight)


def apply_rope(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Rotate the halves of each head of ``x`` (..., tokens, head size) by its token's angles.

    ``cos`` and ``sin`` are (tokens, half of head size). Source: Su et al., RoFormer, 2021, with the pairing
    of halves that LLaMA checkpoints in the Hugging Face layout use.
    """
    half = cos.shape[-1]
    left, right = x[..., :half], x[..., half:]
    out_left, out_right = out[..., :half], out[..., half:]
    torch.mul(left, cos, out=out_left)
    out_left.addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=out_right)
    out_right.addcmul_(left, sin)
    return out


def causal_softmax(scores: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Softmax over the keys that each token may see: row t of (heads, rows, keys), whose last row sees all keys.

    Writes exact zeros beyond.
    """
    rows, keys = scores.shape[-2:]
    if rows == 1:
        return torch.softmax(scores, dim=-1, out=out)
    # Two passes over everything beat many over parts: each costs a wake-up of the other threads.
    if rows == keys:
        torch.add(scores, _future(rows, scores.dtype), out=out)
    else:
        before = keys - rows
        out[..., :before] = scores[..., :before]
        torch.add(scores[..., before:], _future(rows, scores.dtype), out=out[..., before:])
    return torch.softmax(out, dim=-1, out=out)


@lru_cache(maxsize=1)
def _future(tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """Return (tokens, tokens): minus infinity where the column is later than the row, zero elsewhere."""
    return torch.full((tokens, tokens), float("-inf"), dtype=dtype).triu_(1)


def silu_mul(gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Compute gate x sigmoid(gate) x up, element by element (Shazeer, GLU Variants, 2020)."""
    torch.ops.aten.silu.out(gate, out=out)
    return out.mul_(up)
