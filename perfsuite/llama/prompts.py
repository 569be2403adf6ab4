"""The text that is measured on: the user's, or a passage that is shipped."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol

from perfsuite.errors import UsageError

PASSAGE = "pride_and_prejudice.txt"


class Encoder(Protocol):
    """The part of a checkpoint's tokenizer that is needed here."""

    def encode(self, text: str, /) -> list[int]:
        """Token ids of ``text``."""
        ...


def _passage() -> str:
    """The opening chapters of Pride and Prejudice (1813, public domain), in plain ASCII."""
    return (resources.files("perfsuite.llama") / "data" / PASSAGE).read_text(encoding="ascii")


def read_prompt(path: Path) -> str:
    """The text of a UTF-8 file. Raises UsageError for one that cannot be read or is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"prompt file {path}: not UTF-8 text ({error.reason})") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"prompt file {path}: {reason}") from error
    if not text.strip():
        raise UsageError(f"prompt file {path}: it is empty")
    return text


@dataclass(frozen=True)
class Tokenized:
    """The token ids of a prompt, and in words where they come from and what was done to them."""

    source: str
    ids: list[int]


@dataclass(frozen=True)
class Prompt:
    """A text and where it comes from, in words. ``tokens`` are what is taken of it unless a run says otherwise."""

    source: str
    text: str
    tokens: int | None = None  # all

    def tokenized(self, tokenizer: Encoder, tokens: int | None = None) -> Tokenized:
        """Return exactly ``tokens`` token ids: the text is cut where it is longer, repeated where it is shorter.

        Raises UsageError for a text without any token.
        """
        ids = tokenizer.encode(self.text) if self.text.strip() else []
        if not ids:
            raise UsageError("the prompt is empty: give it some text")
        wanted = tokens or self.tokens or len(ids)
        source = self.source
        if wanted > len(ids):
            source += f", repeated from {len(ids):,} tokens"
        elif wanted < len(ids) and self.tokens is None:
            source += f", the first of {len(ids):,} tokens"
        return Tokenized(source, list(islice(cycle(ids), wanted)))


SHIPPED_TOKENS = 1024
SHIPPED = Prompt("shipped passage", _passage(), SHIPPED_TOKENS)
