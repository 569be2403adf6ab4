"""What the tests of the devices compare with: exact results, and how far from them a result may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, settings

from runtime.checkpoints import Checkpoint
from runtime.devices.base import Device
from runtime.devices.layer_kernels import LayerKernels
from runtime.operations import Call, output_specs
from runtime.tensors import TensorSpec

RANDOM = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

FLOAT32_PRODUCT = 2**-20  # summed in float32
FLOAT32_SUM = 2**-17  # of hundreds of terms
# Each half is rounded to 2**-8 of itself: left out are the product of the two low halves, and what
# either of them lost.
SPLIT_PRODUCT = 3 * 2**-16
BFLOAT16_RESULT = 2**-8  # rounded once, give or take


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@dataclass(frozen=True)
class Kernels:
    """Kernels under test, and how far their results may be off: a share of what is summed."""

    name: str
    dtype: torch.dtype
    error: float
    make: Callable[[], LayerKernels]

    def normal(self, *shape: int, seed: int) -> torch.Tensor:
        return normal(*shape, seed=seed, dtype=self.dtype)


def assert_product(
    actual: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    *added: torch.Tensor,
    error: float,
) -> None:
    """``actual`` is x weight^T and all that is ``added``, within ``error`` of the terms' sizes."""
    exact, size = x.double() @ weight.double().t(), x.double().abs() @ weight.double().abs().t()
    for term in added:
        exact, size = exact + term.double(), size + term.double().abs()
    # Each term that is added may round once more.
    allowed = size * (error * (1 + len(added)))
    assert bool(((actual.double() - exact).abs() <= allowed).all())


def assert_causal_attention(
    attend: Callable[..., torch.Tensor], dtype: torch.dtype, shape: tuple[int, int, int, int, int]
) -> None:
    """What ``attend`` gives is softmax(Q K^T / sqrt(size)) V, each query over the keys up to its own."""
    batch, heads, kv_heads, tokens, size = shape
    # As in a layer: keys follow the queries, values lie token by token.
    rotated = normal(batch, heads + kv_heads, tokens, size, seed=0, dtype=dtype)
    queries, keys = rotated[:, :heads], rotated[:, heads:]
    values = normal(batch, tokens, kv_heads, size, seed=1, dtype=dtype).transpose(1, 2)
    attended = attend(queries, keys, values)
    assert attended.dtype == dtype
    keys, values = (
        tensor.double().repeat_interleave(heads // kv_heads, dim=1) for tensor in (keys, values)
    )
    scores = queries.double() @ keys.transpose(2, 3) / size**0.5
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    weights = torch.softmax(scores.masked_fill(later, -torch.inf), dim=-1)
    # A score's relative error is its weight's by as much as the score is large.
    relative = torch.finfo(dtype).eps * (2 + float(scores.abs().max())) + FLOAT32_SUM
    allowed = relative * (weights @ values.abs())
    assert bool(((attended.double() - weights @ values).abs() <= allowed).all())


ATTENTIONS = [
    (1, 3, 3, 1, 8),
    (2, 4, 2, 255, 16),
    (1, 4, 1, 256, 24),
    (2, 6, 2, 257, 16),
    (1, 9, 3, 700, 64),
]


def run(device: Device, checkpoint: Checkpoint, call: Call, *inputs: torch.Tensor) -> torch.Tensor:
    """The only result of ``call``, whose inputs must stay as they are."""
    before = [tensor.clone() for tensor in inputs]
    specs = output_specs(
        checkpoint.config, device.dtype, call, [TensorSpec.of(tensor) for tensor in inputs]
    )
    outputs = [torch.full(spec.shape, torch.nan, dtype=spec.dtype) for spec in specs]
    device.run(call, inputs, outputs)
    assert all(torch.equal(*pair) for pair in zip(inputs, before, strict=True))
    assert not any(bool(output.isnan().any()) for output in outputs)
    return torch.cat(outputs, dim=-1)
