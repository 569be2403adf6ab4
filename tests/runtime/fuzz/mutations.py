"""Words that the formats know, and blind changes made with them: the short form of fuzzing."""

from __future__ import annotations

import random
from collections.abc import Sequence

from runtime.checkpoints.rope_parameters import ROPE_KINDS

_FIELDS = (
    # messages
    "session", "sequence", "operation", "layer", "modules", "transpose_b", "inputs", "outputs", "dtype", "shape",
    "payload", "hello", "error", "kind", "field", "problem", "protocol", "config", "digest", "device", "granularity",
    "worker", "deserialize_s", "device_s", "serialize_s", "payload_copies", "embedding", "batch_linear", "matmul",
    "fused_layer", "lm_head", "ping", "q_proj", "float32", "bfloat16", "int64",
    # configurations, indices, headers of tensors
    "model_type", "llama", "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
    "rope_theta", "rope_scaling", "rope_parameters", "rope_type", "tie_word_embeddings", "attention_bias",
    "mlp_bias", "hidden_act", "factor", "weight_map", "metadata", "data_offsets", "F32", "BF16", "I64",
    "model.safetensors", "model.embed_tokens.weight", "lm_head.weight",
    # tokenizers, GGUF
    "version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model", "vocab", "merges",
    "unk_token", "BPE", "WordLevel", "Unigram", "ByteLevel", "Sequence", "GGUF", "general.architecture",
    "general.alignment", "llama.block_count", "llama.attention.head_count", "llama.attention.head_count_kv",
    "tokenizer.ggml.tokens", "tokenizer.ggml.model", "token_embd.weight",
)  # fmt: skip
_VALUES = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b"99999999999999999999", b"[]", b"{}", b'""', b"[[[[[[[[", b"\\u0000",
    b"\x80", b"\x90", b"\xc0", b"\xc1", b"\xc3", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\0\0\0\0\0\0\0", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xd4\x05",
    b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 8, b"\x1b[2J",
)  # fmt: skip
WORDS: Sequence[bytes] = (*(word.encode() for word in (*_FIELDS, *ROPE_KINDS)), *_VALUES)


def mutated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Change ``data`` in some places; ``other`` is a seed, parts of which may come in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        begin = chance.randint(0, len(changed))
        end = min(len(changed), begin + chance.choice((0, 1, 1, 2, 8, 64)))
        length = chance.choice((1, 4, 8, 64))
        place = chance.randint(0, len(other))
        changed[begin:end] = chance.choice(
            (
                b"",
                chance.randbytes(end - begin),
                chance.choice(WORDS),
                bytes(data[begin:end]) * 2,
                other[place : place + length],
            )
        )
    return bytes(
        changed[: chance.choice((len(changed), len(changed), chance.randint(0, len(changed))))]
    )
