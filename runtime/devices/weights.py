"""A decoder layer's weights, stacked so that modules which share an input are one matrix product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from runtime.checkpoints import Checkpoint
from runtime.operations import linear_shapes
from runtime.stages import Granularity

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

_WHOLE_LAYER: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "qkv": ("q_proj", "k_proj", "v_proj"),
        "o": ("o_proj",),
        "gate_up": ("gate_proj", "up_proj"),
        "down": ("down_proj",),
    }
)


def linear_groups(checkpoint: Checkpoint, granularity: Granularity) -> Mapping[str, Sequence[str]]:
    """Return which modules are computed together, under one name each."""
    if granularity == "operation":
        return {module: (module,) for module in linear_shapes(checkpoint.config)}
    return _WHOLE_LAYER


def stacked_linear(
    checkpoint: Checkpoint, layer: int, modules: Sequence[str], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the weight (sum of out features, in features) and bias of ``modules``."""
    config = checkpoint.config
    weights, biases = [], []
    for module in modules:
        attention = module in _ATTENTION
        prefix = f"model.layers.{layer}.{'self_attn' if attention else 'mlp'}.{module}"
        weights.append(checkpoint.tensor(f"{prefix}.weight").to(dtype))
        if config.attention_bias if attention else config.mlp_bias:
            biases.append(checkpoint.tensor(f"{prefix}.bias").to(dtype))
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    return weight, torch.cat(biases) if biases else None


def layer_norms(
    checkpoint: Checkpoint, layer: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of the norms before attention and before the MLP, (hidden,) each."""
    before_attention, before_mlp = (
        checkpoint.tensor(f"model.layers.{layer}.{name}.weight").to(dtype)
        for name in ("input_layernorm", "post_attention_layernorm")
    )
    return before_attention, before_mlp
