"""A text that grows: its tokens' keys and values stay in a cache that the worker keeps, until they are cut off."""

from __future__ import annotations

import secrets
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from runtime.caches import MOST_PROMPTS, Window
from runtime.errors import InputError
from runtime.rope import max_length
from runtime.token_ids import TokenIds, checked_token_ids

if TYPE_CHECKING:
    from runtime.split_llama import SplitLlama

_NUMBER_BITS = 62


def new_number() -> int:
    """Return a cache's number: two of one worker never have the same, nor does one guess another's."""
    return secrets.randbits(_NUMBER_BITS)


class Context:
    """The text of ``batch`` conversations of equal length, which begins empty. Made by ``SplitLlama.open_context``.

    Whoever forgets to close one leaves its memory to the worker only until the next call.
    """

    def __init__(self, llama: SplitLlama, batch: int, capacity: int) -> None:
        """See ``SplitLlama.open_context``."""
        most = max_length(llama.config)
        if type(capacity) is not int or not 1 <= capacity <= most:
            raise InputError(
                f"capacity: must be a whole number of tokens from 1 to the model's {most} positions, got {capacity!r}"
            )
        if type(batch) is not int or not 1 <= batch <= MOST_PROMPTS:
            raise InputError(
                f"batch: must be a whole number from 1 to {MOST_PROMPTS}, got {batch!r}"
            )
        self.batch, self.capacity = batch, capacity
        self.length = 0
        """Positions that are kept, in tokens."""
        self.llama = llama
        self._tokens = torch.empty((batch, capacity), dtype=torch.int64)
        self._number = new_number()
        self._close = weakref.finalize(self, llama.abandoned.append, self._number)
        self._close.atexit = False

    @property
    def tokens(self) -> torch.Tensor:
        """The text that is kept, (batch, length) int64; a copy."""
        return self._tokens[:, : self.length].clone()

    def append(self, input_ids: TokenIds) -> torch.Tensor:
        """Continue the text; return the logits after its last token, (batch, vocabulary) float32.

        ``input_ids`` are (tokens,) or (batch, tokens). They are computed in pieces (``runtime.chunks``).

        Raises:
            InputError: for ids that are none of the model's, another number of conversations, or too many tokens.
            WorkerError, ProtocolError, ArenaError: as ``SplitLlama.forward``.
        """
        ids = checked_token_ids(input_ids, self.llama.config)
        tokens = ids.shape[1]
        with self.llama.turn():
            self.check(ids)
            if tokens > self.capacity - self.length:
                raise InputError(
                    f"input_ids: {self.length} tokens are kept, {tokens} more exceed the {self.capacity} "
                    "that the context was opened for"
                )
            window = Window(self.length, tokens, cache=self._number)
            logits = self.llama.extend(window, ids, self.capacity)
            self._tokens[:, window.start : window.end] = ids
            self.length += tokens
            return logits

    def check(self, ids: torch.Tensor) -> None:
        """Refuse (batch, tokens) ids of another number of conversations, and all once the context is closed.

        Raises:
            InputError: saying which.
        """
        self._check_open()
        if len(ids) != self.batch:
            raise InputError(
                f"input_ids: the context has {self.batch} conversations, got {len(ids)}"
            )

    def trim(self, length: int) -> None:
        """Cut the text to its first ``length`` tokens.

        Raises:
            InputError: if there are not so many.
            WorkerError, ProtocolError: as ``SplitLlama.forward``.
        """
        with self.llama.turn():
            self._check_open()
            if type(length) is not int or not 0 <= length <= self.length:
                raise InputError(
                    f"length: must be from 0 to the {self.length} tokens kept, got {length!r}"
                )
            if length < self.length:
                self.llama.trim(self._number, length)
                self.length = length

    def close(self) -> None:
        """Give the cache's memory back. Closing twice is allowed, and closing after the llama."""
        if self._close.detach():
            self.llama.abandoned.append(self._number)
            self.llama.close_abandoned()

    def _check_open(self) -> None:
        if not self._close.alive:
            raise InputError("context: is closed; open another")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
