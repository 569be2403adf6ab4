"""The tensors of a LLaMA's files: those of ``transformers``' own model, name by name."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.layout import EMBEDDING, LM_HEAD, tensor_shapes
from tests.runtime.models import model_configs, small_config


@given(config=model_configs())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_names_and_shapes_are_those_of_transformers(config: ModelConfig) -> None:
    model = LlamaForCausalLM(LlamaConfig(**config.to_hf()))
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        assert theirs.pop(LM_HEAD) == theirs[EMBEDDING]  # one tensor under two names
    assert tensor_shapes(config) == theirs


@given(tied=st.booleans(), layers=st.integers(1, 5))
def test_layers_follow_each_other_between_the_ends(tied: bool, layers: int) -> None:
    """A file that is written in this order is read in this order."""
    names = list(tensor_shapes(small_config(num_hidden_layers=layers, tie_word_embeddings=tied)))
    ends = ["model.norm.weight"] + ([] if tied else [LM_HEAD])
    assert names[0] == EMBEDDING
    assert names[-len(ends) :] == ends
    numbers = [int(name.split(".")[2]) for name in names[1 : -len(ends)]]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(layers))
