"""What lies between the matrix products of a LLaMA layer: each writes into memory that the caller gives."""

from __future__ import annotations

import torch

_ROWS = 64  # so many rows of all heads stay in the cache between the passes over them


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
    """Softmax over the keys that each token may see: row t of (heads, tokens, tokens) up to column t.

    Writes exact zeros beyond.
    """
    tokens = scores.shape[-1]
    future = torch.full((_ROWS, _ROWS), float("-inf"), dtype=scores.dtype).triu_(1)
    for begin in range(0, tokens, _ROWS):
        end = min(begin + _ROWS, tokens)
        visible = scores[:, begin:end, :end].clone(memory_format=torch.contiguous_format)
        visible[..., begin:].add_(future[: end - begin, : end - begin])
        out[:, begin:end, :end] = torch.softmax(visible, dim=-1, out=visible)
        out[:, begin:end, end:].zero_()
    return out


def silu_mul(gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Compute gate x sigmoid(gate) x up, element by element (Shazeer, GLU Variants, 2020)."""
    torch.ops.aten.silu.out(gate, out=out)
    return out.mul_(up)
