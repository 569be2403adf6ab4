"""A conversation whose keys and values stay with the worker, so that each turn computes only what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from runtime.answer import Answer, start_answer
from runtime.checkpoints import Checkpoint
from runtime.checkpoints.chat_template import ChatTemplate, Message
from runtime.errors import InputError
from runtime.split_llama import SplitLlama


class Chat:
    """What both sides said, and the tokens of it that the context holds.

    A template may write earlier turns anew, and a tokenizer may cut the text of an answer otherwise than the model
    made it. So each turn is encoded as a whole, and what it has in common with the context from its beginning is
    kept there.
    """

    def __init__(
        self,
        llama: SplitLlama,
        checkpoint: Checkpoint,
        template: ChatTemplate,
        *,
        capacity: int,
        max_new_tokens: int = 512,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> None:
        """``capacity`` bounds the conversation, in tokens; ``sampling`` is as for ``SplitLlama.generate``.

        Raises:
            InputError: for a capacity that the model has not.
        """
        self.messages: list[Message] = []
        self._llama = llama
        self._template = template
        self._tokenizer = checkpoint.tokenizer()
        self._end_tokens = checkpoint.eos_token_ids
        self._max_new_tokens, self._stop = max_new_tokens, tuple(stop)
        self._sampling: Mapping[str, Any] = sampling
        self._context = llama.open_context(1, capacity)

    def ask(self, text: str) -> Answer:
        """Say ``text``, and return the answer, which is made while it is iterated over, before the next question.

        Both belong to the conversation when that ends, an answer that was cancelled as far as it came.

        Raises:
            InputError: if the conversation has become too long, or the template refuses it.
            CheckpointError: if the template cannot be used.
            WorkerError, ProtocolError, ArenaError: as ``SplitLlama.forward``.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self._tokenizer.encode(self._template.render(messages))
        room = self._context.capacity - len(ids) + 1  # the last token is made and not kept
        if room < 1:
            raise InputError(
                f"the conversation has {len(ids):,} tokens, and its context takes {self._context.capacity:,}; "
                "begin another one, or give it more"
            )
        held = self._context.tokens[0].tolist()
        # The last token is asked for what follows it.
        kept = min(common_prefix(held, ids), len(ids) - 1)
        self._context.trim(kept)
        return start_answer(
            self._llama,
            self._tokenizer,
            ids,
            self._end_tokens,
            context=self._context,
            kept_tokens=kept,
            stop=self._stop,
            ended=partial(self._note, messages),
            max_new_tokens=min(self._max_new_tokens, room),
            **self._sampling,
        )

    def _note(self, messages: list[Message], answer: Answer) -> None:
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]

    def clear(self) -> None:
        """Forget what was said."""
        self.messages = []
        self._context.trim(0)

    def close(self) -> None:
        """Give the context back. Closing twice is allowed."""
        self._context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
