"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import tokenizers

from runtime.checkpoints.weights import require_file
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
        self._file = file
        with self._explained():
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
            # A prompt has the length that it has; and to a length of terabytes nothing can be padded.
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()

    def encode(self, text: str) -> list[int]:
        """The token ids of ``text``, without any special token added. Raises CheckpointError."""
        with self._explained():
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out. Raises CheckpointError."""
        with self._explained():
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        # The library raises plain Exception, and panics, which are not even that.
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            raise CheckpointError(
                f"{self._file} is damaged or not a tokenizer ({error}); fetch the checkpoint again"
            ) from error


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
    require_file(file)
    if file.exists():
        return FileTokenizer(file)
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
