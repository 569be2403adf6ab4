"""What a LLaMA's ``config.json`` says, checked field by field."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.checkpoints.fields import flag, number, present, refuse, whole
from runtime.checkpoints.rope_parameters import parse_rope
from runtime.errors import CheckpointError

ARCHITECTURE = "LlamaForCausalLM"
_FIRST_ARCHITECTURE = "LLaMAForCausalLM"  # as the first published conversions spell it
MOST_LAYERS = 4096

# Fields with which ``transformers`` or a model's own code would compute something else than a plain
# LLaMA, and the only values that change nothing. Any other field is left unread, as there.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),  # two names of one function
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "rope_interleaved": (False,),
    "sliding_window": (),
    "attention_chunk_size": (),
    "per_layer_config": ({},),
    "quantization_config": (),
    "compression_config": (),
    "num_local_experts": (0,),
    "num_experts": (0,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "attention_multiplier": (),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "use_qk_norm": (False,),
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The dimensions and settings of a LLaMA. Compares by value.

    ``rope`` is ``transformers``' ``rope_parameters``: plain JSON values with at least ``rope_type``
    and ``rope_theta``.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    rope: Mapping[str, Any] = field(hash=False)

    @classmethod
    def from_hf(cls, fields: Mapping[str, Any]) -> ModelConfig:
        """Reads a Hugging Face ``config.json``, version 4 or 5 style.

        Raises CheckpointError, naming the field, for whatever is not a plain LLaMA.
        """
        _refuse_other_models(fields)
        hidden_size = _required(fields, "hidden_size")
        num_heads = _required(fields, "num_attention_heads")
        if hidden_size % num_heads:
            raise refuse(
                "hidden_size", hidden_size, f"a multiple of num_attention_heads {num_heads}"
            )
        num_kv_heads = whole(
            "num_key_value_heads", present(fields, "num_key_value_heads", num_heads)
        )
        if num_heads % num_kv_heads:
            raise refuse(
                "num_key_value_heads", num_kv_heads, f"a divisor of num_attention_heads {num_heads}"
            )
        head_dim = whole("head_dim", present(fields, "head_dim", hidden_size // num_heads))
        if head_dim % 2:
            raise refuse("head_dim", head_dim, "even: RoPE rotates pairs")
        max_positions = whole(
            "max_position_embeddings", present(fields, "max_position_embeddings", 2048)
        )
        return cls(
            vocab_size=_required(fields, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_required(fields, "intermediate_size"),
            num_layers=_required(fields, "num_hidden_layers", most=MOST_LAYERS),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            max_positions=max_positions,
            rms_norm_eps=number("rms_norm_eps", present(fields, "rms_norm_eps", 1e-6)),
            tie_word_embeddings=_flag(fields, "tie_word_embeddings"),
            attention_bias=_flag(fields, "attention_bias"),
            mlp_bias=_flag(fields, "mlp_bias"),
            rope=parse_rope(fields, head_dim=head_dim, max_positions=max_positions),
        )

    def to_hf(self) -> dict[str, Any]:
        """The fields of a ``config.json``, fit for ``transformers.LlamaConfig(**fields)``."""
        return {
            "architectures": [ARCHITECTURE],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "rope_parameters": copy.deepcopy(dict(self.rope)),
        }

    def to_json_dict(self) -> dict[str, Any]:
        """This configuration under its own field names, as plain JSON values."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**own, "rope": copy.deepcopy(dict(self.rope))}


def _required(fields: Mapping[str, Any], name: str, **limits: int) -> int:
    if fields.get(name) is None:
        raise CheckpointError(f"config field {name!r} is missing; a LLaMA's config.json has it")
    return whole(name, fields[name], **limits)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    return flag(name, present(fields, name, False))


def _refuse_other_models(fields: Mapping[str, Any]) -> None:
    if fields.get("model_type") != "llama":
        raise refuse("model_type", fields.get("model_type"), "'llama'; no other kind is supported")
    architectures = fields.get("architectures")
    if architectures is not None and architectures not in ([ARCHITECTURE], [_FIRST_ARCHITECTURE]):
        raise refuse("architectures", architectures, f"[{ARCHITECTURE!r}]")
    layer_types = fields.get("layer_types")
    if layer_types is not None and (
        not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types)
    ):
        raise refuse("layer_types", layer_types, "'full_attention' for every layer")
    if fields.get("auto_map"):
        raise refuse(
            "auto_map",
            fields["auto_map"],
            "absent: it names code of the model's own, which is never run; if the model is a plain LLaMA all the "
            "same, remove the field from a copy of config.json",
        )
    for name, neutral in _NEUTRAL.items():
        value = fields.get(name)
        if value is not None and not any(value == accepted for accepted in neutral):
            wanted = " or ".join(["absent", *(repr(accepted) for accepted in neutral)])
            raise refuse(name, value, f"{wanted}: nothing else is supported")
