"""The text that is measured on: the user's, or a passage that is shipped."""

from __future__ import annotations

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


def passage() -> str:
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


def tokenize(text: str, tokenizer: Encoder, tokens: int) -> list[int]:
    """``text`` as exactly ``tokens`` token ids: cut when it is longer, repeated when shorter.

    Raises UsageError for a text without any token.
    """
    ids = tokenizer.encode(text) if text.strip() else []
    if not ids:
        raise UsageError("the prompt is empty: give it some text")
    return list(islice(cycle(ids), tokens))
