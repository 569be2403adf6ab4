"""Reading a configuration: what is understood, what is refused, and by which name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from runtime.checkpoints import ModelConfig
from runtime.errors import CheckpointError

PLAIN: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
}


def test_every_field_is_read() -> None:
    config = ModelConfig.from_hf(
        {
            **PLAIN,
            "head_dim": 32,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
        }
    )
    assert config == ModelConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=80,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        max_positions=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
        rope={"rope_type": "default", "rope_theta": 5000.0},
    )
    assert hash(config) == hash(ModelConfig.from_hf(config.to_hf()))


def test_absent_and_null_fields_get_transformers_defaults() -> None:
    short = {
        name: PLAIN[name]
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        )
    }
    theirs = LlamaConfig(**short)
    for fields in (short, {**short, "head_dim": None, "num_key_value_heads": None}):
        ours = ModelConfig.from_hf({"model_type": "llama", **fields})
        assert ours == ModelConfig.from_hf(theirs.to_dict())


REFUSED: list[tuple[str, Any]] = [
    ("model_type", "mistral"),
    ("model_type", None),
    ("architectures", ["LlamaForSequenceClassification"]),
    ("architectures", []),
    ("hidden_act", "gelu"),
    ("quantization_config", {"quant_method": "gptq"}),
    ("compression_config", {}),
    ("partial_rotary_factor", 0.5),
    ("is_causal", False),
    ("rope_interleaved", True),
    ("sliding_window", 128),
    ("layer_types", ["full_attention", "sliding_attention"]),
    ("per_layer_config", {"0": {"num_attention_heads": 2}}),
    ("auto_map", {"AutoModelForCausalLM": "modeling.Other"}),
    ("num_local_experts", 8),
    ("vocab_size", 0),
    ("vocab_size", -1),
    ("vocab_size", 96.0),
    ("vocab_size", "96"),
    ("vocab_size", True),
    ("vocab_size", 2**31),
    ("vocab_size", None),
    ("hidden_size", 0),
    ("hidden_size", 66),
    ("intermediate_size", None),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 10**9),
    ("num_attention_heads", 0),
    ("num_key_value_heads", 3),
    ("num_key_value_heads", 0),
    ("head_dim", 15),
    ("head_dim", 0),
    ("max_position_embeddings", 0),
    ("rms_norm_eps", 0),
    ("rms_norm_eps", float("nan")),
    ("rms_norm_eps", float("inf")),
    ("rms_norm_eps", "1e-5"),
    ("tie_word_embeddings", 1),
    ("attention_bias", "no"),
    ("mlp_bias", []),
    ("rope_parameters", "linear"),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pretraining_tp", 2),
        ("hidden_act", "swish"),
        ("architectures", ["LLaMAForCausalLM"]),
        ("rope_scaling", {"type": "linear", "factor": 0.5}),
    ],
    ids=str,
)
def test_what_transformers_loads_as_a_plain_llama_is_loaded(name: str, value: Any) -> None:
    plain, other = ModelConfig.from_hf(PLAIN), ModelConfig.from_hf({**PLAIN, name: value})
    assert dataclasses.replace(other, rope=plain.rope) == plain


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=str)
def test_a_refusal_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"'{name}'"):
        ModelConfig.from_hf({**PLAIN, name: value})


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 4))
    half = draw(st.integers(2, 16))
    factor = st.floats(1.0, 64.0)
    factors = st.lists(factor, min_size=half, max_size=half)
    rope = draw(
        st.one_of(
            st.just({"rope_type": "default"}),
            st.fixed_dictionaries({"rope_type": st.just("linear"), "factor": factor}),
            st.fixed_dictionaries({"rope_type": st.just("dynamic"), "factor": factor}),
            st.fixed_dictionaries(
                {"rope_type": st.just("longrope"), "short_factor": factors, "long_factor": factors}
            ),
            st.just(LLAMA3),
        )
    )
    return {
        "model_type": "llama",
        "vocab_size": draw(st.integers(1, 1000)),
        "hidden_size": heads * draw(st.integers(1, 64)),
        "intermediate_size": draw(st.integers(1, 1000)),
        "num_hidden_layers": draw(st.integers(1, 8)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * half,
        "max_position_embeddings": draw(st.integers(65, 10_000)),
        "rms_norm_eps": draw(st.floats(1e-8, 1e-2)),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "rope_parameters": {"rope_theta": draw(st.floats(100.0, 1e6)), **rope},
    }


@settings(max_examples=50, deadline=None)
@given(configurations())
def test_round_trips(fields: dict[str, Any]) -> None:
    config = ModelConfig.from_hf(fields)
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config
    assert ModelConfig.from_hf(LlamaConfig(**config.to_hf()).to_dict()) == config
    assert ModelConfig(**json.loads(json.dumps(config.to_json_dict()))) == config


def json_values() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    keys = st.sampled_from(["rope_type", "type", "factor", "rope_theta", "short_factor"])
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner)
    )


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted({*PLAIN, *(name for name, _ in REFUSED), "rope_scaling"})),
    value=json_values(),
)
def test_any_value_is_understood_or_refused(name: str, value: Any) -> None:
    fields = {**PLAIN, name: value}
    try:
        fields = ModelConfig.from_hf(fields).to_hf()
    except CheckpointError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert ModelConfig.from_hf(fields).to_hf() == fields
    assert not refusal or name in refusal or "head" in name  # heads' number and size go together
