"""What every device computes, operation by operation."""

from __future__ import annotations

import pytest
import torch

from runtime.checkpoints import Checkpoint
from runtime.devices import open_device
from runtime.devices.base import Device
from runtime.errors import ProtocolError
from runtime.operations import Call
from tests.runtime.devices.comparing import (
    FLOAT32_PRODUCT,
    SPLIT_PRODUCT,
    assert_product,
    normal,
    run,
)
from tests.runtime.models import random_ids


def test_embedding_looks_up_rows(by_operation: Device, checkpoint: Checkpoint) -> None:
    input_ids = random_ids(checkpoint.config, 2, 30)
    table = checkpoint.tensor("model.embed_tokens.weight")
    assert torch.equal(
        run(by_operation, checkpoint, Call("embedding"), input_ids), table[input_ids]
    )


@pytest.mark.parametrize("bad", [-1, 96, 2**40, -(2**63)])
def test_embedding_refuses_ids_out_of_the_vocabulary(
    by_operation: Device, checkpoint: Checkpoint, bad: int
) -> None:
    for input_ids in (torch.tensor([[bad, 1]]), torch.tensor([[1, 2], [3, bad]])):
        with pytest.raises(ProtocolError) as caught:
            run(by_operation, checkpoint, Call("embedding"), input_ids)
        assert caught.value.field.startswith("inputs[0]")
    run(by_operation, checkpoint, Call("embedding"), torch.tensor([[0, 95]]))


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    "modules", [("q_proj", "k_proj", "v_proj"), ("v_proj",), ("o_proj",), ("up_proj", "gate_proj")]
)
def test_batch_linear_applies_modules_in_the_order_asked(
    by_operation: Device,
    checkpoint: Checkpoint,
    modules: tuple[str, ...],
    layer: int,
    tokens: int,
) -> None:
    part = "mlp" if modules[0] in ("up_proj", "gate_proj") else "self_attn"
    prefixes = [f"model.layers.{layer}.{part}.{module}" for module in modules]
    weight = torch.cat([checkpoint.tensor(f"{prefix}.weight") for prefix in prefixes])
    bias = torch.cat([checkpoint.tensor(f"{prefix}.bias") for prefix in prefixes])
    x = normal(2, tokens, weight.shape[1], seed=0)
    out = run(by_operation, checkpoint, Call("batch_linear", layer, modules), x)
    assert_product(out.flatten(0, 1), x.flatten(0, 1), weight, bias, error=SPLIT_PRODUCT)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(
    ("count", "rows", "inner", "columns"), [(4, 100, 16, 50), (2, 1100, 64, 70)], ids=str
)
def test_matmul_multiplies_each_pair(
    by_operation: Device, count: int, rows: int, inner: int, columns: int, transpose_b: bool
) -> None:
    a, b = normal(count, rows, inner, seed=0), normal(count, inner, columns, seed=1)
    given_b = b.transpose(1, 2).contiguous() if transpose_b else b
    out = torch.full((count, rows, columns), torch.nan)
    by_operation.run(Call("matmul", 0, transpose_b=transpose_b), (a, given_b), (out,))
    for index in range(count):
        assert_product(out[index], a[index], b[index].t(), error=FLOAT32_PRODUCT)


def test_lm_head_is_its_formula(by_operation: Device, checkpoint: Checkpoint) -> None:
    x = normal(3, 48, seed=0)
    out = run(by_operation, checkpoint, Call("lm_head"), x)
    assert_product(out, x, checkpoint.tensor("lm_head.weight"), error=FLOAT32_PRODUCT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_does_not_depend_on_what_ran_before(
    checkpoint: Checkpoint, device_name: str, dtype: torch.dtype
) -> None:
    with torch.no_grad():
        device = open_device(device_name, checkpoint, dtype, "layer")
        calls = [
            (Call("fused_layer", layer), normal(batch, tokens, 48, seed=tokens, dtype=dtype))
            for layer in range(2)
            for batch, tokens in ((1, 40), (3, 64), (1, 1), (2, 33))
        ]
        first = [run(device, checkpoint, call, x) for call, x in calls]
        again = [run(device, checkpoint, call, x) for call, x in reversed(calls)]
    for expected, actual in zip(first, reversed(again), strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_says_what_it_is(
    checkpoint: Checkpoint, device_name: str, dtype: torch.dtype
) -> None:
    device = open_device(device_name, checkpoint, dtype, "layer")
    assert device.dtype == dtype
    assert device.name
    assert device.kernels
