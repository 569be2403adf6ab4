"""A layer's weights: one matrix for the modules that share an input, in the order of their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runtime.checkpoints import Checkpoint
from runtime.devices.weights import layer_norms, linear_groups, stacked_linear
from runtime.operations import linear_shapes
from runtime.stages import Granularity
from tests.runtime.models import small_config, write_model


@pytest.mark.parametrize("granularity", ["operation", "layer"])
def test_every_module_is_in_one_group(checkpoint: Checkpoint, granularity: Granularity) -> None:
    groups = linear_groups(checkpoint, granularity)
    modules = [module for group in groups.values() for module in group]
    assert sorted(modules) == sorted(linear_shapes(checkpoint.config))
    assert all(len(group) == 1 for group in groups.values()) == (granularity == "operation")


def test_modules_that_share_an_input_lie_below_each_other(checkpoint: Checkpoint) -> None:
    modules = ("q_proj", "k_proj", "v_proj")
    weight, bias = stacked_linear(checkpoint, 1, modules, torch.bfloat16)
    stored = [
        [checkpoint.tensor(f"model.layers.1.self_attn.{module}.{part}") for module in modules]
        for part in ("weight", "bias")
    ]
    assert torch.equal(weight, torch.cat(stored[0]).bfloat16())
    assert bias is not None
    assert torch.equal(bias, torch.cat(stored[1]).bfloat16())


@pytest.mark.parametrize(("attention", "mlp"), [(True, False), (False, True), (False, False)])
def test_a_part_without_biases_has_none(attention: bool, mlp: bool, tmp_path: Path) -> None:
    checkpoint = write_model(
        tmp_path / "model", small_config(attention_bias=attention, mlp_bias=mlp)
    )
    for module, biased in (("o_proj", attention), ("down_proj", mlp)):
        _, bias = stacked_linear(checkpoint, 0, (module,), torch.float32)
        assert (bias is not None) is biased


def test_a_single_module_comes_as_it_is_stored_or_rounded_once(
    checkpoint: Checkpoint,
) -> None:
    stored = checkpoint.tensor("model.layers.0.mlp.down_proj.weight")
    same, _ = stacked_linear(checkpoint, 0, ("down_proj",), torch.float32)
    converted, _ = stacked_linear(checkpoint, 0, ("down_proj",), torch.bfloat16)
    assert torch.equal(same, stored)
    assert torch.equal(converted, stored.bfloat16())


def test_norms_come_in_the_order_in_which_a_layer_needs_them(checkpoint: Checkpoint) -> None:
    names = ("input_layernorm", "post_attention_layernorm")
    for norm, name in zip(layer_norms(checkpoint, 1, torch.float32), names, strict=True):
        assert torch.equal(norm, checkpoint.tensor(f"model.layers.1.{name}.weight"))
