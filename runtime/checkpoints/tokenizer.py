"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import tokenizers

from runtime.checkpoints.files import SteadyFile
from runtime.errors import CheckpointError
from runtime.text import printable

TOKENIZER_FILE = "tokenizer.json"
NO_TOKENIZER_FILE = "no-tokenizer.txt"
"""Says why the tokenizer of a converted file could not be rebuilt."""

_LONGEST_REASON = 200  # characters
_OTHER_FILES = ("tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")


class Tokenizer(Protocol):
    """What the project asks of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """The token ids of ``text``, without any special token added."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""


class FileTokenizer:
    """A ``tokenizer.json``."""

    def __init__(self, file: Path) -> None:
        """Raises CheckpointError if the file cannot be read as a tokenizer."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(
                f"{file} is damaged or not a tokenizer ({error}); fetch the checkpoint again"
            ) from error

    def encode(self, text: str) -> list[int]:
        """The token ids of ``text``, without any special token added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


class ByteTokenizer:
    """UTF-8 bytes as token ids, for models of random weights, which have no vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """The bytes of ``text``, modulo the size of a vocabulary smaller than 256."""
        return [byte % self._vocab_size for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of those bytes; an id that is no byte is written ``<id>``."""
        pieces = (bytes([i]) if 0 <= i < 256 else f"<{i}>".encode() for i in ids)
        return b"".join(pieces).decode(errors="replace")


def open_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a checkpoint's directory. Raises CheckpointError."""
    file = directory / TOKENIZER_FILE
    if file.exists():
        return FileTokenizer(SteadyFile(file).path)
    missing = directory / NO_TOKENIZER_FILE
    if missing.exists():
        reason = printable(missing.read_text(errors="replace"), _LONGEST_REASON)
        raise CheckpointError(
            f"{directory}: the file's tokenizer could not be rebuilt ({reason}); give token ids"
        )
    for other in _OTHER_FILES:
        if (directory / other).exists():
            raise CheckpointError(
                f"{directory} has a {other} but no {TOKENIZER_FILE}; make one with "
                "transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
    return ByteTokenizer(vocab_size)
