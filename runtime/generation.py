"""Continuing a prompt token by token: what is fed to the model, when it ends, and what it took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Self, TypedDict

import torch

from runtime.errors import InputError
from runtime.rope import max_length
from runtime.sampling import Sampler, Sampling
from runtime.stopping import Reason, Stopping
from runtime.trace import Totals, added

if TYPE_CHECKING:
    from runtime.checkpoints.tokenizer import Tokenizer
    from runtime.context import Context
    from runtime.split_llama import SplitLlama


class GenerationOptions(TypedDict, total=False):
    """Of ``SplitLlama.generate``."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    seed: int | None
    stop: Iterable[int | str]
    tokenizer: Tokenizer | None
    context: Context | None
    ignore_eos: bool


class Generation(Iterator[torch.Tensor]):
    """Yields each new token of a batch of prompts when it is there, (batch,) int64. Made by ``SplitLlama.generate``.

    A prompt that is finished before others goes on with the checkpoint's first end token, or with its last token
    if there is none. The cache is given back at the end, by ``close``, or when nobody has this object any more.
    """

    def __init__(
        self,
        llama: SplitLlama,
        ids: torch.Tensor,
        max_new_tokens: int,
        sampling: Sampling,
        end_tokens: Sequence[int],
        stop: Iterable[int | str],
        tokenizer: Tokenizer | None,
        context: Context | None,
    ) -> None:
        """See ``SplitLlama.generate``; nothing is computed before the first token is asked for."""
        if type(max_new_tokens) is not int or max_new_tokens < 1:
            raise InputError(
                f"max_new_tokens: must be a whole number of at least 1, got {max_new_tokens!r}"
            )
        if context is not None:
            if context.llama is not llama:
                raise InputError("context: is another model's; open one of this")
            context.check(ids)
        batch, tokens = ids.shape
        # The last token is chosen, and not fed.
        capacity = tokens + max_new_tokens - 1
        room = context.capacity - context.length if context else max_length(llama.config)
        if capacity > room:
            raise InputError(
                f"max_new_tokens: {tokens} tokens and {max_new_tokens} new ones exceed the {room} positions left"
            )
        self.ttft_s = 0.0
        """Seconds to the first token."""
        self.token_s: list[float] = []
        """Seconds to each further token, from the one before."""
        self.first_totals: Totals | None = None
        """Sums over the calls of the first token."""
        self.token_totals: Totals | None = None
        """The same of all further ones."""
        self._llama, self._max_new_tokens = llama, max_new_tokens
        self._owned = context is None
        self._context = context or llama.open_context(batch, capacity)
        self._sampler = Sampler(sampling)
        before = torch.cat((self._context.tokens, ids), dim=1)
        self._stopping = Stopping(batch, end_tokens, stop, tokenizer, before.tolist())
        known = (token for token in end_tokens if token < llama.config.vocab_size)
        self._padding = next(known, None)
        # Of its own: the caller may change theirs before the first token is asked for.
        self._prompt = self._fed = ids.to(torch.int64, copy=True)  # that is fed next
        self._made: list[torch.Tensor] = []  # (batch, 1) each
        self._finished = torch.zeros(batch, dtype=torch.bool)
        self._closed = False

    def __next__(self) -> torch.Tensor:
        if self._closed:
            raise StopIteration
        try:
            with self._llama.turn():  # of this thread, until the next token is known
                if self._closed:
                    raise StopIteration
                return self._next()
        except BaseException:
            self.close()
            raise

    def _next(self) -> torch.Tensor:
        started = time.perf_counter()
        logits = self._context.append(self._fed)
        token = self._sampler.choose(logits, self._context.tokens)
        if self._padding is not None:
            token[self._finished] = self._padding
        self._finished = self._stopping.update(token)
        self._fed = token[:, None]
        self._made.append(self._fed)
        self._count(time.perf_counter() - started)
        if len(self._made) == self._max_new_tokens or bool(self._finished.all()):
            self.close()
        return token.clone()  # the caller's own

    @property
    def totals(self) -> Totals | None:
        """Sums over all calls so far."""
        if self.first_totals is None or self.token_totals is None:
            return self.first_totals
        return added(self.first_totals, self.token_totals)

    @property
    def tokens(self) -> torch.Tensor:
        """Prompts and what was made of them so far, (batch, tokens) int64."""
        return torch.cat((self._prompt, *self._made), dim=1)

    @property
    def finish_reasons(self) -> list[Reason | Literal["length"] | None]:
        """Why each prompt ended: ``eos``, ``stop``, ``length``; None while it goes on, or where it was cancelled."""
        length: Literal["length"] | None = (
            "length" if len(self._made) == self._max_new_tokens else None
        )
        return [reason or length for reason in self._stopping.reasons]

    def finish(self) -> torch.Tensor:
        """Make all tokens that are left; return prompts and answers, (batch, tokens)."""
        for _ in self:
            pass
        return self.tokens

    def close(self) -> None:
        """Make no more tokens, and give the cache back unless it was given. Closing twice is allowed."""
        self._closed = True
        if self._owned:
            self._context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, seconds: float) -> None:
        totals = self._llama.last_trace.totals()
        if len(self._made) == 1:
            self.ttft_s, self.first_totals = seconds, totals
        else:
            self.token_s.append(seconds)
            self.token_totals = added(self.token_totals, totals)
