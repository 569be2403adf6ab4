"""GGUF files into the Hugging Face layout, by way of ``transformers``, which dequantizes them.

Importing ``transformers`` takes seconds: this module is imported for a conversion only.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import tokenizers
import torch
from gguf import GGUFReader
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from runtime.checkpoints.cache import require_space
from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.layout import tensor_shapes
from runtime.checkpoints.tokenizer import NO_TOKENIZER_FILE
from runtime.checkpoints.weights import write_weights
from runtime.errors import CheckpointError

_KNOWN_KEYS = frozenset(
    f"llama.{key}"
    for key in (
        "context_length",
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "vocab_size",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.type",
        "rope.scaling.factor",
        "tensor_data_layout",
    )
)
_REQUIRED = ("llama.block_count", "llama.embedding_length", "llama.feed_forward_length")
_KNOWN_TENSOR = re.compile(
    r"(token_embd|output|output_norm|rope_freqs|"
    r"blk\.\d+\.(attn_(q|k|v|output|norm)|ffn_(gate|up|down|norm)))\.weight"
)
_ROPE_FREQUENCIES = "rope_freqs.weight"

# What may be said of a model that is a plain LLaMA all the same, and what it must be then.
_HARMLESS: Mapping[str, Callable[[Any], bool]] = {
    "llama.attention.causal": lambda value: value is True,
    "llama.expert_count": lambda value: value == 0,
    "llama.expert_used_count": lambda value: value == 0,
}

# Vocabularies that were learned on text whose every digit stands alone.
_SPLIT_DIGITS = frozenset(
    (
        "codeshell", "command-r", "deepseek-coder", "exaone", "minerva-7b", "refact", "smollm", "starcoder",
    )
)  # fmt: skip


def convert_gguf(file: Path, directory: Path) -> None:
    """Writes the model of ``file`` into ``directory``: config.json, float32 safetensors, tokenizer.

    Raises CheckpointError if the file is damaged or not a plain LLaMA.
    """
    header = _Header(file)
    with _quietly(), _explained(file):
        model, report = LlamaForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    if header.has_tokenizer:
        try:
            with _quietly():
                _save_tokenizer(header, directory)
        except Exception as error:  # noqa: BLE001 - the weights are fine, and token ids need no tokenizer
            (directory / NO_TOKENIZER_FILE).write_text(f"{type(error).__name__}: {error}")
    if report["missing_keys"]:
        raise CheckpointError(f"{file} lacks the tensors of {sorted(report['missing_keys'])[:3]}")

    fields = {**model.config.to_dict(), "quantization_config": None, **header.rope_fields()}
    config = ModelConfig.from_hf(fields)
    ends = {key: fields.get(key) for key in ("bos_token_id", "eos_token_id")}
    (directory / "config.json").write_text(json.dumps({**config.to_hf(), **ends}, indent=2))

    state = model.state_dict()
    if not header.has_kv_heads:
        _undo_interleaving(state, config)
    shapes = tensor_shapes(config)
    require_space(directory, sum(state[name].nbytes for name in shapes))
    write_weights(directory, ((name, state[name]) for name in shapes))


class _Header:
    """What the file says of itself, checked for what ``transformers`` would silently leave out."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with _explained(file):
            reader = GGUFReader(file)
            self._fields: Mapping[str, Any] = {
                name: field.contents()
                for name, field in reader.fields.items()
                if name.startswith(("llama.", "general.architecture", "tokenizer.ggml.pre"))
            }
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.has_tokenizer = "tokenizer.ggml.tokens" in reader.fields
        self._refuse_unsupported()
        self._check_sizes()

    def _refuse_unsupported(self) -> None:
        architecture = self._fields.get("general.architecture")
        if architecture != "llama":
            raise CheckpointError(
                f"{self.file}: general.architecture is {architecture!r}; only 'llama' is supported"
            )
        for name, value in self._fields.items():
            if name in _HARMLESS and _HARMLESS[name](value):
                continue
            if name.startswith("llama.") and name not in _KNOWN_KEYS:
                raise CheckpointError(f"{self.file}: field {name!r} is not supported")
        for name in self._tensors:
            if not _KNOWN_TENSOR.fullmatch(name):
                raise CheckpointError(f"{self.file}: tensor {name!r} is not supported")

    def _check_sizes(self) -> None:
        """Compare the sizes that the file declares with its tensors.

        ``transformers`` would allocate what is declared, and usual sizes where nothing is.
        """
        sizes = {name: [int(size) for size in each.shape] for name, each in self._tensors.items()}
        heads = _same(self._fields.get("llama.attention.head_count"))
        if not isinstance(heads, int) or heads < 1:
            raise CheckpointError(f"{self.file}: llama.attention.head_count is {heads!r}")
        try:
            hidden, vocabulary = sizes["token_embd.weight"]
            (_, query), (_, key) = (sizes[f"blk.0.attn_{name}.weight"] for name in "qk")
            _, inner = sizes["blk.0.ffn_gate.weight"]
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{self.file} lacks tensors of a LLaMA, or they are no matrices ({error})"
            ) from error
        head_dim = query // heads
        stored = {
            "llama.block_count": len({name.split(".")[1] for name in sizes if "blk" in name}),
            "llama.embedding_length": hidden,
            "llama.feed_forward_length": inner,
            "llama.vocab_size": vocabulary,
            "llama.attention.head_count_kv": key // max(1, head_dim),
            "llama.attention.key_length": head_dim,
            "llama.attention.value_length": head_dim,
        }
        for name, size in stored.items():
            declared = _same(self._fields.get(name, None if name in _REQUIRED else size))
            if declared != size:
                raise CheckpointError(
                    f"{self.file}: {name} is {declared!r}; its tensors have {size}"
                )

    @property
    def splits_digits(self) -> bool:
        """Whether the vocabulary was learned on text whose every digit stands alone."""
        return self._fields.get("tokenizer.ggml.pre") in _SPLIT_DIGITS

    @property
    def has_kv_heads(self) -> bool:
        """Whether it says how many key/value heads there are; without, as many as query heads."""
        return "llama.attention.head_count_kv" in self._fields

    def rope_fields(self) -> dict[str, Any]:
        """The RoPE settings as a configuration's fields; ``transformers`` reads only theta."""
        theta = self._fields.get("llama.rope.freq_base")
        factor = self._fields.get("llama.rope.scaling.factor") or 1.0
        # As llama.cpp reads it: a factor alone means linear.
        kind = self._fields.get("llama.rope.scaling.type", "linear" if factor != 1.0 else "none")
        if kind not in ("none", "linear"):
            raise CheckpointError(f"{self.file}: llama.rope.scaling.type {kind!r} is not supported")
        if _ROPE_FREQUENCIES in self._tensors:
            # llama.cpp stores a divisor for each frequency, which is what longrope's lists are.
            scale = float(factor) if kind == "linear" else 1.0
            factors = [scale * float(each) for each in self._tensors[_ROPE_FREQUENCIES].data]
            lists = {"short_factor": factors, "long_factor": factors, "attention_factor": 1.0}
            return _rope("longrope", theta, lists)
        if kind == "linear":
            return _rope("linear", theta, {"factor": factor})
        return _rope("default", theta, {})


def _same(value: Any) -> Any:
    """Return what all entries of a list are, where they are the same; else ``value``."""
    is_uniform = isinstance(value, list) and value and value.count(value[0]) == len(value)
    return value[0] if is_uniform else value


def _rope(kind: str, theta: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **settings}}


def _undo_interleaving(state: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Bring the rows of query and key weights, in place, from llama.cpp's order into Hugging Face's.

    A head's two halves lie there row by row in turn. ``transformers`` does this only where the file says
    how many key/value heads there are.
    """
    for name, weight in state.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            rows, columns = weight.shape
            by_head = weight.view(config.num_heads, rows // config.num_heads // 2, 2, columns)
            weight.copy_(by_head.transpose(1, 2).reshape(rows, columns).clone())


def _save_tokenizer(header: _Header, directory: Path) -> None:
    file = header.file
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if header.splits_digits:
        # ``transformers`` does not know this kind and joins a digit's space to the text before it.
        tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Digits(individual_digits=True),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    tokenizer.save_pretrained(directory)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file makes the readers raise almost anything
        raise CheckpointError(
            f"{file} is damaged or cannot be converted ({type(error).__name__}: {error})"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps ``transformers``' bars, notes and warnings off the terminal."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
