"""Text of tokens as they come: pieces that are final, whose sum is the decoding of the whole."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.checkpoints.tokenizer import Tokenizer

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_CHARACTER = 4  # bytes at most in UTF-8, and a token has one at least
_CONTEXT = (
    8  # tokens of a prompt: how the first word of the answer is written depends on the last of them
)


class Detokenizer:
    """Decodes one sequence token by token, in time that does not grow with the sequence.

    A piece is given out when no further token can change it: it never ends within a character, nor within a run
    of bytes that a tokenizer decodes only as a whole. ``context`` are the tokens before the first one, as a
    prompt's; their text is in no piece.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Decoded once more with what follows: the text of tokens is not the sum of each one's.
        start = max(0, len(context) - _CONTEXT)
        while start and tokenizer.is_fallback_byte(context[start]):
            start -= 1  # not within a run
        self._before = list(context[start:])
        # The first tokens may complete what a prompt leaves open.
        self._known = len(tokenizer.decode(self._before).rstrip(_UNKNOWN))
        self._open: list[int] = []

    def add(self, token: int) -> str:
        """Take the next token, and return the text that became final by it, often that of this token."""
        self._open.append(token)
        if self._tokenizer.is_fallback_byte(token):
            return ""
        if self._tokenizer.decode(self._open[-_CHARACTER:]).endswith(_UNKNOWN):
            return ""
        return self.flush()

    @property
    def pending(self) -> str:
        """What the tokens whose text is not final would read if none followed."""
        if not self._open:
            return ""
        return self._tokenizer.decode(self._before + self._open)[self._known :]

    def flush(self) -> str:
        """Return the rest, as at the end of the sequence."""
        text = self.pending
        if text:
            self._before = self._open
            self._known = len(self._tokenizer.decode(self._before))
            self._open = []
        elif self._before:
            self._open = []  # no text, whatever stands before it
        return text
