"""GGUF files: converted right, or refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGUFWriter
from transformers import LlamaConfig, LlamaForCausalLM

from runtime.checkpoints import Checkpoint, load_checkpoint
from runtime.checkpoints.files import SteadyFile
from runtime.checkpoints.gguf import convert
from runtime.errors import CheckpointError
from runtime.rope import RotaryEmbedding

Array = npt.NDArray[np.float32]
Value = int | float | str | bool | list[str] | list[int]

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 64, 96, 4, 2, 16, 64

METADATA: dict[str, int | float | str] = {
    "llama.context_length": 128,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INNER,
    "llama.block_count": 1,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": HEAD_DIM,
    "llama.rope.freq_base": 5000.0,
    "llama.vocab_size": VOCAB,
}

# Their name there, and how many heads' rows are interleaved there.
NAMES = {
    "token_embd": ("model.embed_tokens", 0),
    "output_norm": ("model.norm", 0),
    "output": ("lm_head", 0),
    "blk.0.attn_norm": ("model.layers.0.input_layernorm", 0),
    "blk.0.attn_q": ("model.layers.0.self_attn.q_proj", HEADS),
    "blk.0.attn_k": ("model.layers.0.self_attn.k_proj", KV_HEADS),
    "blk.0.attn_v": ("model.layers.0.self_attn.v_proj", 0),
    "blk.0.attn_output": ("model.layers.0.self_attn.o_proj", 0),
    "blk.0.ffn_norm": ("model.layers.0.post_attention_layernorm", 0),
    "blk.0.ffn_gate": ("model.layers.0.mlp.gate_proj", 0),
    "blk.0.ffn_up": ("model.layers.0.mlp.up_proj", 0),
    "blk.0.ffn_down": ("model.layers.0.mlp.down_proj", 0),
}


def model_of(**fields: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    usual: dict[str, Any] = {"num_key_value_heads": KV_HEADS, "initializer_range": 0.3}
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        **{**usual, **fields},
    )
    return LlamaForCausalLM(config)


def tensors_of(
    model: LlamaForCausalLM, names: Mapping[str, tuple[str, int]] = NAMES
) -> dict[str, Array]:
    state = model.state_dict()
    tensors: dict[str, Array] = {}
    for name, (theirs, heads) in names.items():
        array: Array = state[f"{theirs}.weight"].numpy()
        if heads:  # llama.cpp rotates neighbours, Hugging Face a head's two halves
            halves = array.reshape(heads, 2, HEAD_DIM // 2, HIDDEN)
            array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
        tensors[f"{name}.weight"] = array
    return tensors


def write_gguf(
    file: Path,
    tensors: dict[str, Array],
    metadata: Mapping[str, Value],
    architecture: str = "llama",
) -> None:
    writer = GGUFWriter(file, architecture)
    for key, value in metadata.items():
        add: dict[type, Callable[[str, Any], None]] = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        add[type(value)](key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real" not in request.node.name:
        cache: Path = request.getfixturevalue("tmp_path") / "cache"
        monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(cache))


def converted(file: Path) -> Checkpoint:
    """As ``load_checkpoint`` does it in another process."""
    directory = file.with_suffix(".converted")
    directory.mkdir()
    convert(SteadyFile(file), directory)
    return load_checkpoint(directory)


def test_a_small_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = model_of()
    file = tmp_path / "small.gguf"
    write_gguf(file, tensors_of(model), METADATA)
    checkpoint = load_checkpoint(file)
    assert capfd.readouterr() == ("", "")

    assert checkpoint.source == str(file)
    assert checkpoint.config.rope == {"rope_type": "default", "rope_theta": 5000.0}
    assert (checkpoint.config.num_kv_heads, checkpoint.config.head_dim) == (KV_HEADS, HEAD_DIM)
    assert not checkpoint.config.tie_word_embeddings
    for name in checkpoint.expected_shapes():
        assert torch.equal(checkpoint.tensor(name), model.state_dict()[name])

    # By content, not by name or place: the same file elsewhere is not converted again.
    moved = file.rename(tmp_path / "moved.GGUF")
    assert load_checkpoint(str(moved)).directory == checkpoint.directory


def test_a_tokenizer_that_cannot_be_rebuilt_leaves_the_weights_usable(tmp_path: Path) -> None:
    model, file = model_of(), tmp_path / "small.gguf"
    words: dict[str, str | list[str]] = {
        "tokenizer.ggml.model": "unheard-of",
        "tokenizer.ggml.tokens": ["a"] * VOCAB,
    }
    write_gguf(file, tensors_of(model), {**METADATA, **words})
    checkpoint = converted(file)
    for name in checkpoint.expected_shapes():
        assert torch.equal(checkpoint.tensor(name), model.state_dict()[name])
    with pytest.raises(CheckpointError, match=r"tokenizer could not be rebuilt.*give token ids"):
        checkpoint.tokenizer()


def test_tied_embeddings_and_linear_scaling(tmp_path: Path) -> None:
    tensors = tensors_of(model_of(tie_word_embeddings=True))
    del tensors["output.weight"]
    scaling: dict[str, int | float | str] = {
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4.0,
    }
    write_gguf(tmp_path / "tied.gguf", tensors, {**METADATA, **scaling})
    checkpoint = converted(tmp_path / "tied.gguf")
    assert checkpoint.config.tie_word_embeddings
    assert checkpoint.config.rope["rope_type"] == "linear"
    assert checkpoint.config.rope["factor"] == 4.0


def test_a_scaling_factor_alone_means_linear(tmp_path: Path) -> None:
    """As llama.cpp reads it."""
    metadata = {**METADATA, "llama.rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "scaled.gguf", tensors_of(model_of()), metadata)
    rope = converted(tmp_path / "scaled.gguf").config.rope
    assert (rope["rope_type"], rope["factor"]) == ("linear", 4.0)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_scaling_factor_that_scales_nothing_is_none(factor: float, tmp_path: Path) -> None:
    metadata = {**METADATA, "llama.rope.scaling.factor": factor}
    write_gguf(tmp_path / "plain.gguf", tensors_of(model_of()), metadata)
    assert converted(tmp_path / "plain.gguf").config.rope["rope_type"] == "default"


def test_without_a_number_of_key_value_heads_there_are_as_many_as_query_heads(
    tmp_path: Path,
) -> None:
    """The format allows it; the weights lie in llama.cpp's order all the same."""
    model = model_of(num_key_value_heads=HEADS)
    metadata = {key: value for key, value in METADATA.items() if not key.endswith("head_count_kv")}
    names = {**NAMES, "blk.0.attn_k": (NAMES["blk.0.attn_k"][0], HEADS)}
    write_gguf(tmp_path / "heads.gguf", tensors_of(model, names), metadata)
    checkpoint = converted(tmp_path / "heads.gguf")
    assert checkpoint.config.num_kv_heads == HEADS
    for name in checkpoint.expected_shapes():
        assert torch.equal(checkpoint.tensor(name), model.state_dict()[name])


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.expert_count": 0, "llama.expert_used_count": 0},
        {"llama.attention.causal": True},
        {"general.name": "mistral"},
        {"llama.attention.head_count": [HEADS], "llama.attention.head_count_kv": [KV_HEADS]},
        {"llama.feed_forward_length": [INNER, INNER]},
    ],
    ids=str,
)
def test_what_says_only_that_it_is_a_plain_llama_is_taken(
    metadata: dict[str, int | float | str | bool | list[str] | list[int]], tmp_path: Path
) -> None:
    model = model_of()
    write_gguf(tmp_path / "plain.gguf", tensors_of(model), {**METADATA, **metadata})
    checkpoint = converted(tmp_path / "plain.gguf")
    for name in checkpoint.expected_shapes():
        assert torch.equal(checkpoint.tensor(name), model.state_dict()[name])


@pytest.mark.parametrize("scaling", [1.0, 4.0])
def test_frequencies_stored_as_a_tensor(scaling: float, tmp_path: Path) -> None:
    """llama.cpp writes llama3's scaling as one divisor for each frequency; linear scaling comes on top."""
    factors = np.linspace(1, 8, HEAD_DIM // 2, dtype=np.float32)
    tensors = {**tensors_of(model_of()), "rope_freqs.weight": factors}
    linear: dict[str, int | float | str] = {
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": scaling,
    }
    metadata = {**METADATA, **linear} if scaling > 1 else METADATA
    write_gguf(tmp_path / "scaled.gguf", tensors, metadata)
    config = converted(tmp_path / "scaled.gguf").config
    cos, sin = RotaryEmbedding(config).tables(128)
    frequencies = 5000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM) / factors / scaling
    angles = torch.from_numpy(np.outer(np.arange(128), frequencies))
    torch.testing.assert_close(cos.double(), angles.cos(), atol=1e-4, rtol=0)
    torch.testing.assert_close(sin.double(), angles.sin(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"llama.expert_count": 8}, (), "'llama.expert_count'"),
        ({"llama.attention.causal": False}, (), "'llama.attention.causal'"),
        ({"llama.attention.scale": 0.1}, (), "'llama.attention.scale'"),
        ({"llama.rope.scaling.type": "yarn"}, (), "llama.rope.scaling.type 'yarn'"),
        ({}, ("blk.0.attn_q.bias",), "'blk.0.attn_q.bias'"),
        ({}, ("blk.0.ffn_gate_exps.weight",), "'blk.0.ffn_gate_exps.weight'"),
        ({"llama.block_count": 2}, (), "lacks the tensors of"),
        (
            {"llama.embedding_length": 32},
            (),
            r"tensor 'token_embd.weight' has shape \(64, 64\); its fields imply \(64, 32\)",
        ),
        ({"llama.feed_forward_length": 95}, (), r"'blk\.0\.ffn_gate\.weight' has shape"),
        ({"llama.vocab_size": 63}, (), "'token_embd.weight' has shape"),
        ({"llama.rope.dimension_count": 8}, (), r"'blk\.0\.attn_q\.weight' has shape"),
        (
            {"llama.attention.key_length": 16, "llama.rope.dimension_count": 8},
            (),
            "the head's size, 16",
        ),
        ({"llama.attention.value_length": 8}, (), "the head's size, 16"),
        ({"llama.attention.head_count_kv": [2, 1]}, (), "differs between layers"),
        ({"llama.block_count": 2**31}, (), "'num_hidden_layers' is 2147483648"),
        ({"llama.attention.head_count": 0}, (), "'num_attention_heads' is 0"),
        ({"llama.\x1b[2J": 1}, (), "field 'llama.\N{REPLACEMENT CHARACTER}"),
    ],
    ids=str,
)
def test_what_is_not_a_plain_llama_is_named(
    metadata: dict[str, int | float | str | list[int]],
    tensors: tuple[str, ...],
    message: str,
    tmp_path: Path,
) -> None:
    extra = {name: np.ones(HIDDEN, np.float32) for name in tensors}
    file = tmp_path / "odd.gguf"
    write_gguf(file, {**tensors_of(model_of()), **extra}, {**METADATA, **metadata})
    with pytest.raises(CheckpointError, match=message):
        converted(file)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf", {}, {}, architecture="qwen2")
    with pytest.raises(CheckpointError, match=r"general\.architecture is 'qwen2'"):
        converted(tmp_path / "other.gguf")


@pytest.mark.parametrize("size", [0, 3, 100, 600, 20_000])
def test_a_truncated_file_is_named(size: int, tmp_path: Path) -> None:
    file = tmp_path / "short.gguf"
    write_gguf(file, tensors_of(model_of()), METADATA)
    os.truncate(file, size)
    with pytest.raises(CheckpointError, match=r"short\.gguf is damaged"):
        converted(file)


@pytest.mark.timeout(300)  # the first time, it converts
def test_the_real_model() -> None:
    checkpoint = load_checkpoint("smollm2-135m")
    config = checkpoint.config
    assert checkpoint.source == "smollm2-135m"
    assert (config.num_layers, config.hidden_size, config.intermediate_size) == (30, 576, 1536)
    assert (config.num_heads, config.num_kv_heads, config.tie_word_embeddings) == (9, 3, True)
    tokenizer = checkpoint.tokenizer()
    ids = tokenizer.encode("The capital of France is")
    assert tokenizer.decode(ids) == "The capital of France is"
    assert tokenizer.decode([1, *ids]).startswith("<|im_start|>")

    model = LlamaForCausalLM.from_pretrained(checkpoint.directory, dtype=torch.float32)
    with torch.no_grad():
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    assert tokenizer.decode([token]) == " Paris"


BYTES = [
    chr(byte) if chr(byte).isprintable() and byte != 32 else chr(256 + byte) for byte in range(256)
]
VOCABULARY: dict[str, Value] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [*sorted(set(BYTES)), "12", "\u0120", "\u01201"],
    "tokenizer.ggml.merges": ["1 2", "\u0120 1"],
    "tokenizer.ggml.bos_token_id": 5,
    "tokenizer.ggml.eos_token_id": 6,
}


@pytest.mark.parametrize(
    ("kind", "alone"),
    [
        ("starcoder", True),
        ("refact", True),
        ("command-r", True),
        ("codeshell", True),
        ("exaone", True),
        ("minerva-7b", True),
        ("deepseek-coder", True),
        ("smollm", True),
        ("gpt-2", False),
    ],
)
def test_digits_stand_alone_where_llama_cpp_splits_them(
    kind: str, alone: bool, tmp_path: Path
) -> None:
    model, tokens = model_of(), VOCABULARY["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    metadata = {**METADATA, **VOCABULARY, "tokenizer.ggml.pre": kind}
    write_gguf(tmp_path / "words.gguf", tensors_of(model), metadata)
    tokenizer = converted(tmp_path / "words.gguf").tokenizer()
    pieces = [tokens[token] for token in tokenizer.encode("a12")]
    assert pieces == (["a", "1", "2"] if alone else ["a", "12"])


def test_digits_stand_alone_in_the_real_vocabulary() -> None:
    tokenizer = load_checkpoint("smollm2-135m").tokenizer()
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("a  12\n 5")]
    assert pieces == ["a", "  ", "1", "2", "\n ", "5"]
