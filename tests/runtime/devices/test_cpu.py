"""The CPU as a device: which kernels it chooses, and bfloat16 without a processor that multiplies it."""

from __future__ import annotations

import pytest
import torch

from runtime.checkpoints import Checkpoint
from runtime.devices import cpu, open_device
from runtime.devices.base import Device
from runtime.devices.cpu import CpuDevice, choose_kernels
from runtime.devices.scratch import Scratch
from runtime.operations import Call
from runtime.stages import Granularity
from tests.runtime.devices.comparing import FLOAT32_PRODUCT, assert_product, normal, run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chosen_kernels_have_a_name_for_people(dtype: torch.dtype) -> None:
    kernels = choose_kernels(dtype, Scratch())
    assert str(kernels.dtype).removeprefix("torch.") in kernels.name


@pytest.mark.parametrize("granularity", ["operation", "layer"])
def test_bfloat16_needs_no_processor_that_multiplies_it(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, granularity: Granularity
) -> None:
    monkeypatch.setattr(cpu, "load_amx_kernels", lambda: None)
    monkeypatch.setattr(cpu, "has_bfloat16_products", lambda: False)
    x = normal(2, 40, 48, seed=0, dtype=torch.bfloat16)
    call = Call("fused_layer", 0)
    if granularity == "operation":
        call = Call("batch_linear", 0, ("q_proj", "v_proj"))
    with torch.no_grad():
        exact = open_device("cpu", checkpoint, torch.float32, granularity)
        device = open_device("cpu", checkpoint, torch.bfloat16, granularity)
        expected = run(exact, checkpoint, call, x.float())
        actual = run(device, checkpoint, call, x)
    assert device.kernels.startswith("bfloat16 wire and weights, float32 products")
    assert actual.dtype == torch.bfloat16
    # Rounded are the weights and the result, and nothing between.
    assert float((actual - expected).abs().max()) <= 2 * 2**-8 * float(expected.abs().max())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("matrices", "rows", "inner", "columns"), [(3, 40, 16, 30), (2, 2100, 64, 70)], ids=str
)
def test_matrices_are_multiplied_alike_whole_and_in_blocks(
    matrices: int, rows: int, inner: int, columns: int, transposed: bool
) -> None:
    in_blocks = rows * inner * columns >= cpu._WORTH_SPLITTING
    assert in_blocks == (rows > cpu._BLOCK_ROWS)
    a, b = normal(matrices, rows, inner, seed=0), normal(matrices, inner, columns, seed=1)
    right = b.transpose(1, 2).contiguous().transpose(1, 2) if transposed else b
    out = torch.full((matrices, rows, columns), torch.nan)
    cpu.multiply_matrices(a, right, out)
    for index in range(matrices):
        assert_product(out[index], a[index], b[index].t(), error=FLOAT32_PRODUCT)


def layers(device: Device, checkpoint: Checkpoint, x: torch.Tensor) -> torch.Tensor:
    for layer in range(checkpoint.config.num_layers):
        x = run(device, checkpoint, Call("fused_layer", layer), x)
    return x


def test_the_sum_that_was_rounded_for_the_wire_is_remembered(checkpoint: Checkpoint) -> None:
    """Each layer goes on from what the one before it computed, and not from its rounding."""
    with torch.no_grad():
        exact = open_device("cpu", checkpoint, torch.float32, "layer")
        remembering = open_device("cpu", checkpoint, torch.bfloat16, "layer")
        forgetting = open_device("cpu", checkpoint, torch.bfloat16, "layer")
        assert isinstance(forgetting, CpuDevice)
        recalled = forgetting._recalled

        def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            forgetting._summed = None
            return recalled(x)

        forgetting._recalled = rounded  # type: ignore[method-assign]
        errors = []
        for device in (remembering, forgetting):
            error = 0.0
            for seed in range(8):
                x = 100 * normal(
                    1, 40, 48, seed=seed
                )  # so that rounding the sum is most of the error
                wanted = layers(exact, checkpoint, x.bfloat16().float())
                found = layers(device, checkpoint, x.bfloat16()).float()
                error += float((found - wanted).square().mean())
            errors.append(error)
    assert errors[0] < 0.9 * errors[1]


def test_a_residual_sum_is_taken_up_only_by_what_it_was_rounded_to(checkpoint: Checkpoint) -> None:
    with torch.no_grad():
        device = open_device("cpu", checkpoint, torch.bfloat16, "layer")
        fresh = open_device("cpu", checkpoint, torch.bfloat16, "layer")
        first, second = (normal(1, 9, 48, seed=seed, dtype=torch.bfloat16) for seed in (0, 1))
        run(device, checkpoint, Call("fused_layer", 0), first)
        after_another = run(device, checkpoint, Call("fused_layer", 0), second)
        assert torch.equal(after_another, run(fresh, checkpoint, Call("fused_layer", 0), second))
