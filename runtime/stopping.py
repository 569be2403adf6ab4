"""Where an answer ends: at a token, or where its text holds a string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch

from runtime.checkpoints.tokenizer import Tokenizer
from runtime.detokenizer import Detokenizer
from runtime.errors import InputError

Reason = Literal["eos", "stop"]


class Stopping:
    """Which prompts of a batch are finished, told after each token.

    ``eos`` are the checkpoint's own end tokens. ``stop`` holds further ones (int), and strings, for which a
    tokenizer is needed: a string may span tokens, and end within one. It is looked for in the answer alone, not
    across the prompt's end. ``reasons`` says for each prompt what finished it, if anything did.

    Raises:
        InputError: for a stop that is neither, an empty string, or a string without a tokenizer.
    """

    def __init__(
        self,
        batch: int,
        eos: Iterable[int] = (),
        stop: Iterable[int | str] = (),
        tokenizer: Tokenizer | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """``prompts`` are the tokens before each answer: how its first word is written may depend on them."""
        self._eos = frozenset(eos)
        self._stop_tokens, strings = split_stops(stop)
        self.reasons: list[Reason | None] = [None] * batch
        self._texts: list[_Text] = []
        if strings:
            if tokenizer is None:
                raise InputError("tokenizer: is needed to find the strings of stop")
            self._texts = [
                _Text(Detokenizer(tokenizer, prompts[row] if prompts else ()), strings)
                for row in range(batch)
            ]

    def update(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take the token that each prompt got, (batch,); return (batch,) bool: which are finished by now.

        Tokens of a prompt that was finished before change nothing.
        """
        for row, token in enumerate(tokens.tolist()):
            if self.reasons[row] is None:
                self.reasons[row] = self._reason(row, token)
        return torch.tensor([reason is not None for reason in self.reasons])

    def _reason(self, row: int, token: int) -> Reason | None:
        if token in self._eos:
            return "eos"
        if token in self._stop_tokens or (self._texts and self._texts[row].ends_with(token)):
            return "stop"
        return None


def split_stops(stop: Iterable[int | str]) -> tuple[frozenset[int], tuple[str, ...]]:
    """Return the tokens and the strings of ``stop``.

    Raises:
        InputError: for anything else, and for an empty string.
    """
    given: object = stop
    if isinstance(given, str | int) or not isinstance(given, Iterable):
        raise InputError(f"stop: must be a sequence of token ids and strings, got {given!r}")
    tokens, strings = set(), []
    for one in given:
        if isinstance(one, str) and one:
            strings.append(one)
        elif isinstance(one, int) and not isinstance(one, bool):
            tokens.add(one)
        else:
            raise InputError(
                f"stop: must hold token ids and strings that are not empty, got {one!r}"
            )
    return frozenset(tokens), tuple(strings)


class StopStrings:
    """Cuts a text that comes in pieces where it holds one of ``strings``: neither it nor what follows is shown."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """Return what can be shown by now: an end that may become one of the strings is held back."""
        if self.found:
            return ""
        text = self._held + piece
        found = [
            (text.find(string) + len(string), -len(string))
            for string in self._strings
            if string in text
        ]
        if found:
            end, size = min(
                found
            )  # that which is whole first, however the text was cut into pieces
            self.found, self._held = True, ""
            return text[: end + size]
        held = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Return what was held back, as at the end of the text."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of ``text`` with which ``string`` begins."""
    return next(
        (
            size
            for size in range(min(len(text), len(string) - 1), 0, -1)
            if text.endswith(string[:size])
        ),
        0,
    )


class _Text:
    """The end of one answer's text, as long as the longest string that is looked for."""

    def __init__(self, detokenizer: Detokenizer, strings: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._strings = strings
        self._kept = max(map(len, strings)) - 1
        self._end = ""

    def ends_with(self, token: int) -> bool:
        """Whether the text up to this token holds one of the strings; what may yet change is read as it is."""
        final = self._end + self._detokenizer.add(token)
        text = final + self._detokenizer.pending
        self._end = final[max(0, len(final) - self._kept) :]
        return any(string in text for string in self._strings)
