"""Small tokenizers of the kinds that LLaMAs have, for the tests of text that comes token by token."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from runtime.checkpoints.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer

_WORDS = ("h", "e", "l", "o", "he", "ll", "hello", "w", "r", "d", "wor", "ld", "\u00e9", "x")


def tokenizers_of_kinds(folder: Path) -> dict[str, Tokenizer]:
    """One of each kind: byte-level pairs (Llama 3, SmolLM), SentencePiece's with fallback bytes (Llama 2), bytes."""
    return {
        "byte-level": _saved(folder / "byte-level.json", _byte_level()),
        "sentencepiece": _saved(folder / "sentencepiece.json", _sentencepiece()),
        "bytes": ByteTokenizer(300),
    }


def _saved(file: Path, tokenizer: tokenizers.Tokenizer) -> FileTokenizer:
    tokenizer.save(str(file))
    return FileTokenizer(file)


def _byte_level() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The euro sign's first two bytes are one token, and so is the last with an "a".
    merges = [("\u00e2", "\u0124"), ("\u00ac", "a"), ("h", "e"), ("\u0120", "he"), ("l", "l")]
    vocabulary = alphabet + [first + second for first, second in merges]
    tokenizer = tokenizers.Tokenizer(
        models.BPE({token: i for i, token in enumerate(vocabulary)}, merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def _sentencepiece() -> tokenizers.Tokenizer:
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    vocabulary += _WORDS + tuple(f"\u2581{word}" for word in _WORDS)
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(vocabulary)},
            [("h", "e"), ("l", "l"), ("\u2581", "he"), ("\u2581", "h")],
            unk_token="<unk>",  # noqa: S106 - no password
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer
