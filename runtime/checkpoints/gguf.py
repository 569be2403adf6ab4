"""A GGUF file into the Hugging Face layout: config.json, float32 safetensors, tokenizer.

A program of its own, see ``conversion``. ``transformers`` rebuilds the tokenizer.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gguf import dequantize

from runtime.checkpoints.cache import require_space
from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.conversion import CONVERTED, REFUSED
from runtime.checkpoints.files import SteadyFile
from runtime.checkpoints.gguf_header import GgufHeader
from runtime.checkpoints.layout import EMBEDDING, LM_HEAD, tensor_shapes
from runtime.checkpoints.tokenizer import NO_TOKENIZER_FILE
from runtime.checkpoints.weights import write_weights
from runtime.errors import CheckpointError
from runtime.text import printable

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
_FREQUENCIES = "rope_freqs.weight"
_WEIGHTS: Mapping[str, str] = MappingProxyType(
    {
        EMBEDDING: "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        LM_HEAD: "output.weight",
    }
)
_LAYER_WEIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
)
_LAYER_WEIGHT = re.compile(r"model\.layers\.(\d+)\.(.*)\.weight")

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


_SHOWN = 200  # characters of the file's own words in an error


def main(arguments: Sequence[str]) -> int:
    """Convert in this process; what it has to say is all that it writes to its standard output."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        convert(SteadyFile(Path(arguments[0])), Path(arguments[1]))
    except CheckpointError as error:
        os.write(answer, str(error).encode())
        return REFUSED
    except OSError as error:
        os.write(answer, f"{arguments[0]} cannot be converted: {error.strerror or error}".encode())
        return REFUSED
    return CONVERTED


def convert(file: SteadyFile, directory: Path) -> None:
    """Writes the model of ``file`` into ``directory``, in this process.

    Raises CheckpointError if it is damaged, not a plain LLaMA, or changes meanwhile.
    """
    model = _Model(GgufHeader(file))
    config = model.config
    shapes = tensor_shapes(config)
    require_space(directory, sum(4 * prod(shape) for shape in shapes.values()))
    (directory / "config.json").write_text(
        json.dumps({**config.to_hf(), **model.special_tokens()}, indent=2)
    )
    write_weights(directory, ((name, model.weight(name)) for name in shapes))
    if model.has_tokenizer:
        try:
            _save_tokenizer(file.path, directory, split_digits=model.splits_digits)
        # The weights are fine, and token ids need no tokenizer. A panic of the library in Rust is no Exception.
        except BaseException as error:  # noqa: BLE001
            (directory / NO_TOKENIZER_FILE).write_text(f"{type(error).__name__}: {error}")


class _Model:
    """What a file says of its model, in Hugging Face's terms."""

    def __init__(self, header: GgufHeader) -> None:
        """Raises CheckpointError for whatever is not a plain LLaMA, and for tensors that do not fit it."""
        self._file, self._fields, self._tensors = header.file, header.fields, header.tensors
        self._refuse_unsupported()
        try:
            self.config = ModelConfig.from_hf({**self._dimensions(), **self._rope_fields()})
        except CheckpointError as error:
            raise self._problem(str(error).removeprefix(f"{self._file.path}: ")) from error
        self._refuse_other_shapes()

    def _problem(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self._file.path}: {problem}")

    def _refuse_unsupported(self) -> None:
        architecture = self._fields.get("general.architecture")
        if architecture != "llama":
            raise self._problem(
                f"general.architecture is {_shown(architecture)}; only 'llama' is supported"
            )
        for name, value in self._fields.items():
            if name in _HARMLESS and _HARMLESS[name](value):
                continue
            if name.startswith("llama.") and name not in _KNOWN_KEYS:
                raise self._problem(f"field {_shown(name)} is not supported")

    def _refuse_other_shapes(self) -> None:
        """Refuse tensors that the model of these dimensions has not, lacks, or has in another shape."""
        wanted = {_stored_name(name): shape for name, shape in tensor_shapes(self.config).items()}
        for name in self._tensors:
            if name not in wanted and name != _FREQUENCIES:
                raise self._problem(f"tensor {_shown(name)} is not supported")
        missing = [name for name in wanted if name not in self._tensors]
        if missing:
            raise self._problem(f"lacks the tensors of {missing[:3]}")
        for name, shape in wanted.items():
            if self._tensors[name].shape != shape:
                raise self._problem(
                    f"tensor {name!r} has shape {self._tensors[name].shape}; its fields imply {shape}"
                )

    def _one(self, name: str) -> Any:
        """A field's value; one for each layer is as good as one for all if they are the same."""
        value = self._fields.get(f"llama.{name}")
        if not isinstance(value, list):
            return value
        if not value or value.count(value[0]) != len(value):
            raise self._problem(f"'llama.{name}' differs between layers; that is not supported")
        return value[0]

    def _dimensions(self) -> dict[str, Any]:
        head_dim = self._one("attention.key_length") or self._one("rope.dimension_count")
        for name in ("attention.value_length", "rope.dimension_count"):
            if self._one(name) not in (None, head_dim):
                raise self._problem(
                    f"'llama.{name}' is {self._one(name)}; it must be the head's size, {head_dim}"
                )
        embedding = self._tensors.get(_WEIGHTS[EMBEDDING])
        rows = embedding.shape[0] if embedding else None
        return {
            "model_type": "llama",
            "vocab_size": self._one("vocab_size") or rows,
            "hidden_size": self._one("embedding_length"),
            "intermediate_size": self._one("feed_forward_length"),
            "num_hidden_layers": self._one("block_count"),
            "num_attention_heads": self._one("attention.head_count"),
            "num_key_value_heads": self._one("attention.head_count_kv"),
            "head_dim": head_dim,
            "max_position_embeddings": self._one("context_length"),
            "rms_norm_eps": self._one("attention.layer_norm_rms_epsilon"),
            "tie_word_embeddings": _WEIGHTS[LM_HEAD] not in self._tensors,
        }

    def _rope_fields(self) -> dict[str, Any]:
        theta = self._one("rope.freq_base")
        factor = self._one("rope.scaling.factor") or 1.0
        # As llama.cpp reads it: a factor alone means linear.
        kind = self._fields.get("llama.rope.scaling.type", "linear" if factor != 1.0 else "none")
        if kind not in ("none", "linear"):
            raise self._problem(f"llama.rope.scaling.type {_shown(kind)} is not supported")
        if _FREQUENCIES in self._tensors:
            # llama.cpp stores a divisor for each frequency, which is what longrope's lists are.
            scale = float(factor) if kind == "linear" else 1.0
            factors = [scale * each for each in self._stored(_FREQUENCIES).flatten().tolist()]
            lists = {"short_factor": factors, "long_factor": factors, "attention_factor": 1.0}
            return _rope("longrope", theta, lists)
        if kind == "linear":
            return _rope("linear", theta, {"factor": factor})
        return _rope("default", theta, {})

    def weight(self, name: str) -> torch.Tensor:
        """The tensor that Hugging Face calls ``name``, float32."""
        weight = self._stored(_stored_name(name))
        # A head's two halves lie row by row in turn, as llama.cpp rotates them.
        heads = {"q_proj": self.config.num_heads, "k_proj": self.config.num_kv_heads}
        for module, count in heads.items():
            if name.endswith(f"{module}.weight"):
                halves = weight.view(count, self.config.head_dim // 2, 2, -1)
                weight = halves.transpose(1, 2).reshape(weight.shape)
        return weight

    def _stored(self, name: str) -> torch.Tensor:
        """The tensor called ``name``, as it lies there, dequantized."""
        tensor = self._tensors[name]
        content = np.frombuffer(self._file.read(tensor.offset, tensor.nbytes), np.uint8)
        try:
            values = dequantize(content.reshape(*tensor.shape[:-1], -1), tensor.kind)
        except NotImplementedError as error:
            raise self._problem(
                f"tensor {name!r} is quantized as {tensor.kind.name}; that is not supported"
            ) from error
        return torch.from_numpy(np.array(values, np.float32).reshape(tensor.shape))

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a vocabulary."""
        return "tokenizer.ggml.tokens" in self._fields

    @property
    def splits_digits(self) -> bool:
        """Whether the vocabulary was learned on text whose every digit stands alone."""
        return self._fields.get("tokenizer.ggml.pre") in _SPLIT_DIGITS

    def special_tokens(self) -> dict[str, Any]:
        """The ids of the tokens that begin and end a text, as a configuration's fields."""
        return {
            f"{end}_token_id": self._fields.get(f"tokenizer.ggml.{end}_token_id")
            for end in ("bos", "eos")
        }


def _rope(kind: str, theta: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **settings}}


def _shown(value: object) -> str:
    return repr(printable(value, _SHOWN) if isinstance(value, str) else value)


def _stored_name(name: str) -> str:
    """The name in a GGUF file of the tensor that Hugging Face calls ``name``."""
    found = _LAYER_WEIGHT.fullmatch(name)
    return f"blk.{found[1]}.{_LAYER_WEIGHTS[found[2]]}.weight" if found else _WEIGHTS[name]


def _save_tokenizer(file: Path, directory: Path, *, split_digits: bool) -> None:
    import tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if split_digits:
        # ``transformers`` does not know this kind and joins a digit's space to the text before it.
        tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Digits(individual_digits=True),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    tokenizer.save_pretrained(directory)
