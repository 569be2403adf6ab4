"""An answer's text as it comes, fit to be shown while the rest is still made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from runtime.checkpoints.tokenizer import Tokenizer
from runtime.context import Context
from runtime.detokenizer import Detokenizer
from runtime.generation import Generation
from runtime.split_llama import SplitLlama
from runtime.stopping import StopStrings


class Answer:
    """Iterates over pieces of text, none of them empty, until one prompt's generation ends or is cancelled.

    What ended it is not shown: neither an end token nor a stop string.
    """

    def __init__(
        self,
        generation: Generation,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        end_tokens: Collection[int] = (),
        stop: Sequence[str] = (),
        *,
        kept_tokens: int = 0,
        ended: Callable[[Answer], None] | None = None,
    ) -> None:
        """``prompt`` is all that stands before the answer, of which a context held the first ``kept_tokens``.

        ``ended`` is called once at the end, whatever it was.
        """
        self.generation = generation
        self.prompt_tokens, self.kept_tokens = len(prompt), kept_tokens
        self.tokens: list[int] = []
        """What was made so far, end tokens too."""
        self.text = ""
        """What was shown so far."""
        self.cancelled = False
        """Set by whoever wants no more: also by a signal's handler, for a call is never broken off in the middle."""
        self._end_tokens = end_tokens
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._cut = StopStrings(stop)
        self._ended = ended

    def __iter__(self) -> Iterator[str]:
        try:
            with self.generation:
                for tokens in self.generation:
                    yield from self._shown(self._piece(*tokens.tolist()))
                    if self.cancelled:
                        break
            yield from self._shown(self._cut.feed(self._detokenizer.flush()) + self._cut.flush())
        finally:
            if self._ended:
                self._ended(self)

    def _piece(self, token: int) -> str:
        self.tokens.append(token)
        if token in self._end_tokens:
            return ""
        return self._cut.feed(self._detokenizer.add(token))

    def _shown(self, piece: str) -> Iterator[str]:
        if piece:
            self.text += piece
            yield piece


def start_answer(
    llama: SplitLlama,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    end_tokens: Collection[int],
    *,
    context: Context | None = None,
    kept_tokens: int = 0,
    stop: Sequence[str] = (),
    ended: Callable[[Answer], None] | None = None,
    **settings: Any,
) -> Answer:
    """Return an answer to ``prompt``, to be made while it is iterated over; ``settings`` as ``SplitLlama.generate``.

    ``context`` holds the first ``kept_tokens`` of the prompt and nothing else.

    Raises:
        InputError: as ``SplitLlama.generate``.
    """
    generation = llama.generate(
        prompt[kept_tokens:],
        stop=stop,
        tokenizer=tokenizer,
        context=context,
        stream=True,
        **settings,
    )
    return Answer(
        generation,
        tokenizer,
        prompt,
        end_tokens,
        stop,
        kept_tokens=kept_tokens,
        ended=ended,
    )
