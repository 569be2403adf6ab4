"""Text to token ids and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import tokenizers

from runtime.checkpoints.files import SteadyFile, is_there
from runtime.errors import CheckpointError
from runtime.text import printable

TOKENIZER_FILE = "tokenizer.json"
NO_TOKENIZER_FILE = "no-tokenizer.txt"
"""Says why the tokenizer of a converted file could not be rebuilt."""

_FALLBACK_BYTE = re.compile("<0x[0-9A-F]{2}>")
_LONGEST_REASON = 200  # characters
_OTHER_FILES = ("tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")


class Tokenizer(Protocol):
    """What the project asks of a tokenizer."""

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """The token ids of ``text``; with those that the tokenizer puts around a text only if they are wanted."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""

    def is_fallback_byte(self, token: int) -> bool:
        """Whether a token is a byte whose text hangs on all bytes around it, before and after."""


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
            # The one decoder that reads a run of bytes as a whole: as UTF-8, or each of them as unknown.
            decoder = self._tokenizer.decoder
            self._falls_back = decoder is not None and b"ByteFallback" in decoder.__getstate__()

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """The token ids of ``text``; with those that the tokenizer puts around a text only if they are wanted.

        Raises CheckpointError if the file turns out to be damaged.
        """
        with self._explained():
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out. Raises CheckpointError."""
        with self._explained():
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def is_fallback_byte(self, token: int) -> bool:
        """Whether a token is a byte whose text hangs on all bytes around it, before and after."""
        if not self._falls_back:
            return False
        text = self._tokenizer.id_to_token(token)
        return text is None or _FALLBACK_BYTE.fullmatch(text) is not None  # none: it ends no run

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

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """The bytes of ``text``, modulo the size of a vocabulary smaller than 256; there are no special tokens."""
        return [byte % self._vocab_size for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of those bytes; an id that is no byte is written ``<id>``."""
        pieces = (bytes([i]) if 0 <= i < 256 else f"<{i}>".encode() for i in ids)
        return b"".join(pieces).decode(errors="replace")

    def is_fallback_byte(self, token: int) -> bool:
        """Never: only bytes of one character hang on each other."""
        return False


def open_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a checkpoint's directory. Raises CheckpointError."""
    file = directory / TOKENIZER_FILE
    if is_there(file):
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
