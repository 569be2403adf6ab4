"""What every device can compute: one method per operation, results written where the caller says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from runtime.caches import Window
from runtime.devices.kv_cache import KvCache
from runtime.errors import ProtocolError
from runtime.operations import Call


class Device(ABC):
    """Owns the weights. Inputs and outputs lie in host memory; checked shapes are the caller's duty."""

    dtype: torch.dtype
    name: str
    """The hardware, for people to read."""
    kernels: str
    """Which matrix and attention kernels serve, for people to read."""

    def __init__(self) -> None:
        self._caches: dict[int, KvCache] = {}

    def run(
        self,
        call: Call,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        cache: tuple[int, ...] = (),
    ) -> None:
        """Compute ``call``; when this returns, the results can be read.

        ``cache`` is what the call says of one, checked (``runtime.caches``).

        Raises:
            RuntimeError: if the device fails, for want of memory say.
            ProtocolError: for a token that is not in the vocabulary, or a cache beyond the machine's memory.
        """
        match call.operation:
            case "embedding":
                self.embedding(inputs[0], outputs[0])
            case "batch_linear":
                self.batch_linear(call.layer or 0, call.modules, inputs[0], outputs)
            case "matmul" if cache:
                grown = self._grown(call, inputs[1], *cache[:2])
                self.matmul(inputs[0], grown, call.transpose_b, outputs[0])
            case "matmul":
                self.matmul(inputs[0], inputs[1], call.transpose_b, outputs[0])
            case "fused_layer":
                self.fused_layer(
                    call.layer or 0, inputs[0], outputs[0], self._window(inputs[0], cache)
                )
            case "all_layers":
                self.all_layers(inputs[0], outputs[0], self._window(inputs[0], cache))
            case "next_logits":
                self.next_logits(inputs[0], outputs[0], self._window(inputs[0], cache))
            case "lm_head":
                self.lm_head(inputs[0], outputs[0])
            case "open_cache":
                number, *size = cache
                self._caches[number] = self.new_cache(*size)
            case "close_cache":
                del self._caches[cache[0]]

    def close_caches(self) -> None:
        """Give the memory of all caches back."""
        self._caches.clear()

    def _window(self, x: torch.Tensor, cache: tuple[int, ...]) -> Window:
        """Return where the rows of ``x`` (batch, tokens, ...) stand."""
        if not cache:
            return Window(0, x.shape[1])
        number, start, text = cache
        return Window(start, x.shape[1], text, number)

    def _kept(self, window: Window) -> KvCache | None:
        """Return the cache that ``window`` is of."""
        return None if window.cache is None else self._caches[window.cache]

    def _grown(self, call: Call, rows: torch.Tensor, number: int, start: int) -> torch.Tensor:
        """Append ``rows`` (matrices, rows, head size) to a cache; return all there are in it."""
        cache, layer = self._caches[number], call.layer or 0
        part = (cache.keys(layer) if call.transpose_b else cache.values(layer)).flatten(0, 1)
        end = start + rows.shape[1]
        part[:, start:end] = rows
        return part[:, :end]

    def register(self, memory: torch.Tensor) -> None:  # noqa: B027 (most devices have nothing to do)
        """Learn of the shared memory, as bytes, in which later inputs and outputs will lie."""

    @abstractmethod
    def embedding(self, token_ids: torch.Tensor, out: torch.Tensor) -> None:
        """(batch, tokens) ids -> (batch, tokens, hidden).

        Raises:
            ProtocolError: if an id is not in the vocabulary.
        """

    @abstractmethod
    def batch_linear(
        self, layer: int, modules: Sequence[str], x: torch.Tensor, outputs: Sequence[torch.Tensor]
    ) -> None:
        """Apply several linear modules of one layer to one input (batch, tokens, features)."""

    @abstractmethod
    def matmul(
        self, a: torch.Tensor, b: torch.Tensor, transpose_b: bool, out: torch.Tensor
    ) -> None:
        """Multiply (matrices, rows, inner) by (matrices, inner, columns), or by its transpose."""

    @abstractmethod
    def fused_layer(self, layer: int, x: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        """Apply a whole decoder layer to (batch, tokens, hidden), whose positions ``window`` has."""

    @abstractmethod
    def all_layers(self, x: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        """Apply all decoder layers to (batch, tokens, hidden); return the last position's, (batch, hidden)."""

    @abstractmethod
    def next_logits(self, token_ids: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        """(batch, tokens) ids -> the last position's logits (batch, vocabulary): the whole model."""

    @abstractmethod
    def new_cache(self, batch: int, capacity: int) -> KvCache:
        """Return memory for the keys and values of all layers.

        Raises:
            ProtocolError: if there is not enough.
        """

    @abstractmethod
    def lm_head(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """(batch, hidden) -> (batch, vocabulary)."""


def checked_ids(token_ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return a copy of ``token_ids`` with every id in the vocabulary.

    A copy, because shared memory could change between the check and the use.

    Raises:
        ProtocolError: if an id is not in the vocabulary.
    """
    own = token_ids.clone()
    if int(own.min()) < 0 or int(own.max()) >= vocab_size:
        raise ProtocolError("inputs[0]", f"a token id is not in 0..{vocab_size - 1}")
    return own
