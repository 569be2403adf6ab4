"""What every device can compute: one method per operation, results written where the caller says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from runtime.errors import ProtocolError
from runtime.operations import Call


class Device(ABC):
    """Owns the weights. Inputs and outputs lie in host memory; checked shapes are the caller's duty."""

    dtype: torch.dtype
    name: str
    """The hardware, for people to read."""
    kernels: str
    """Which matrix and attention kernels serve, for people to read."""

    def run(
        self, call: Call, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
    ) -> None:
        """Compute ``call``; when this returns, the results can be read.

        Raises:
            RuntimeError: if the device fails, for want of memory say.
        """
        match call.operation:
            case "embedding":
                self.embedding(inputs[0], outputs[0])
            case "batch_linear":
                self.batch_linear(call.layer or 0, call.modules, inputs[0], outputs)
            case "matmul":
                self.matmul(inputs[0], inputs[1], call.transpose_b, outputs[0])
            case "fused_layer":
                self.fused_layer(call.layer or 0, inputs[0], outputs[0])
            case "lm_head":
                self.lm_head(inputs[0], outputs[0])

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
    def fused_layer(self, layer: int, x: torch.Tensor, out: torch.Tensor) -> None:
        """Apply a whole decoder layer to (batch, tokens, hidden)."""

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
