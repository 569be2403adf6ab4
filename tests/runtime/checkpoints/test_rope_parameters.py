"""RoPE's settings: old and new spellings of every kind, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.checkpoints import ModelConfig
from runtime.checkpoints.rope_parameters import ROPE_KINDS, parse_rope
from runtime.errors import CheckpointError

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 5000.0,
}


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({}, {"rope_type": "default", "rope_theta": 5000.0}),
        ({"rope_theta": None}, {"rope_type": "default", "rope_theta": 10_000.0}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "anything": "else"}},
            {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 2.0},
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 7}, "rope_scaling": None},
            {"rope_type": "default", "rope_theta": 7.0},
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            {
                "rope_type": "yarn",
                "rope_theta": 5000.0,
                "factor": 2.0,
                "original_max_position_embeddings": 128,
            },
        ),
        (
            {
                "original_max_position_embeddings": 32,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1] * 8,
                    "long_factor": [2] * 8,
                    "original_max_position_embeddings": 64,
                },
            },
            {
                "rope_type": "longrope",
                "rope_theta": 5000.0,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 32,
            },
        ),
        ({"partial_rotary_factor": 1.0}, {"rope_type": "default", "rope_theta": 5000.0}),
    ],
)
def test_rope_settings_old_and_new(fields: dict[str, Any], rope: dict[str, Any]) -> None:
    assert ModelConfig.from_hf({**PLAIN, **fields}).rope == rope


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("rope", "name"),
    [
        ({"rope_type": "axial"}, "rope_type"),
        ({"type": "su"}, "rope_type"),
        ({"rope_type": ["linear"]}, "rope_type"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0.0}, "factor"),
        ({"rope_type": "linear", "factor": "2"}, "factor"),
        ({"rope_type": "linear", "factor": float("nan")}, "factor"),
        ({**LLAMA3, "low_freq_factor": None}, "low_freq_factor"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor"),
        ({**LLAMA3, "original_max_position_embeddings": 8.0}, "original_max_position_embeddings"),
        ({**LONGROPE, "short_factor": [1.0] * 7}, "short_factor"),
        ({**LONGROPE, "long_factor": 2.0}, "long_factor"),
        ({**LONGROPE, "long_factor": [0.0] * 8}, "long_factor"),
        ({**LONGROPE, "original_max_position_embeddings": 1}, "original_max_position_embeddings"),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": 1}, "truncate"),
        ({"rope_type": "yarn", "factor": 2.0, "attention_factor": -1}, "attention_factor"),
        ({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, "partial_rotary"),
        ({"rope_type": "proportional", "partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ({"full_attention": {"rope_type": "default"}}, "full_attention"),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_a_rope_refusal_names_the_field(rope: dict[str, Any], name: str, place: str) -> None:
    with pytest.raises(CheckpointError, match=rf"'{place}\.{name}"):
        ModelConfig.from_hf({**PLAIN, place: rope})


def test_dynamic_rope_needs_more_than_one_pair() -> None:
    with pytest.raises(CheckpointError, match="'head_dim'"):
        ModelConfig.from_hf(
            {**PLAIN, "head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
        )


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 64},
    "longrope": {**LONGROPE, "original_max_position_embeddings": 64},
    "llama3": LLAMA3,
    "proportional": {"partial_rotary_factor": 0.5},
}


def test_every_kind_is_among_the_settings() -> None:
    assert set(SETTINGS) == set(ROPE_KINDS)


@pytest.mark.parametrize("kind", ROPE_KINDS)
def test_what_was_read_reads_the_same_again(kind: str) -> None:
    given = {"rope_type": kind, "rope_theta": 7.0, **SETTINGS[kind]}
    rope = parse_rope({"rope_parameters": given}, head_dim=16, max_positions=128)
    assert rope == given
    assert parse_rope({"rope_parameters": rope}, head_dim=16, max_positions=128) == rope


@pytest.mark.parametrize("kind", ROPE_KINDS)
def test_what_a_kind_needs_is_missed_by_name(kind: str) -> None:
    for name in ROPE_KINDS[kind].required:
        given = {"rope_type": kind, **SETTINGS[kind]}
        del given[name]
        fields = {"rope_parameters": given}
        if name == "original_max_position_embeddings":  # then it is the model's own length
            assert parse_rope(fields, head_dim=16, max_positions=128)[name] == 128
            continue
        with pytest.raises(CheckpointError, match=rf"'rope_parameters\.{name}' is missing"):
            parse_rope(fields, head_dim=16, max_positions=128)


@pytest.mark.parametrize("kind", sorted(set(ROPE_KINDS) - {"yarn"}))
def test_what_a_kind_does_not_read_is_left_out(kind: str) -> None:
    given = {"rope_type": kind, **SETTINGS[kind], "truncate": 1, "anything": "else"}
    rope = parse_rope({"rope_parameters": given}, head_dim=16, max_positions=128)
    assert set(rope) == {"rope_type", "rope_theta", *SETTINGS[kind]} - {"type"}
