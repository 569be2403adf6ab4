"""The choice of the next token, on the trusted side: names, meaning and order as in ``transformers``.

The repetition penalty comes first, then temperature, top-k, top-p and min-p. Greedy choice knows the penalty alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from runtime.errors import InputError, ProtocolError

_WHOLE, _NUMBER = (int,), (int, float)
# The types, the least and the most of each field, and what it may be besides.
_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "temperature": (_NUMBER, 1e-5, 1e5, 0),
    "top_k": (_WHOLE, 0, 2**31 - 1, None),
    "top_p": (_NUMBER, 0.0, 1.0, None),
    "min_p": (_NUMBER, 0.0, 1.0, None),
    "repetition_penalty": (_NUMBER, 0.01, 100.0),
    "seed": (_WHOLE, 0, 2**64 - 1, None),
}
_FIRST_CANDIDATES = 256  # of the most likely tokens, before more of them are sorted for top-p


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen from logits.

    ``temperature`` 0 is greedy. ``top_k`` keeps so many of the most likely tokens (0 and None: all), ``top_p`` the
    fewest whose probabilities reach it (1 and None: all), ``min_p`` those at least that share as likely as the most
    likely one. ``repetition_penalty`` makes what the prompt and the answer hold less likely (1: not at all). Equal
    seeds choose equally; without a seed no two samplers do.

    Raises:
        InputError: for a value out of range, by its name.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (kinds, low, high, *others) in _ALLOWED.items():
            given = getattr(self, name)
            if given in others and type(given) is not bool:
                continue
            if type(given) not in kinds or not low <= given <= high:
                also = "".join(f"{other}, or " for other in others)
                what = "a whole number" if kinds == _WHOLE else "a number"
                raise InputError(
                    f"{name}: must be {also}{what} from {low:g} to {high:g}, got {given!r}"
                )


class Sampler:
    """Chooses tokens, with random numbers of its own: torch's global state is neither read nor changed."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the next token of each prompt, (batch,) int64.

        ``logits`` are (batch, vocabulary) float32, ``seen`` each prompt's tokens so far, (batch, tokens) int64;
        neither is changed.

        Raises:
            ProtocolError: if a logit, which the worker computed, is no finite number.
        """
        scores = self._penalized(_checked(logits), seen)
        if self.sampling.temperature == 0.0:
            return scores.argmax(-1)
        # A race of exponential arrivals, one random number for each token of the vocabulary. Where two stages' logits
        # differ a little, only tokens whose likelihood that changes can win or lose by it, however many there are.
        weights = self._weights(scores)
        noise = torch.rand(weights.shape, dtype=torch.float64, generator=self._generator)
        return noise.log_().div_(weights).argmax(-1)

    def probabilities(self, logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the distribution that ``choose`` draws from at a temperature above 0, as (batch, vocabulary).

        Raises:
            ProtocolError: as ``choose``.
        """
        weights = self._weights(self._penalized(_checked(logits), seen)).double()
        return weights / weights.sum(-1, keepdim=True)

    def _penalized(self, logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        penalty = self.sampling.repetition_penalty
        if penalty == 1.0:
            return logits
        scores = logits.gather(-1, seen)
        scores = torch.where(scores < 0, scores * penalty, scores / penalty)
        finite = torch.finfo(logits.dtype)
        return logits.scatter(-1, seen, scores.clamp(finite.min, finite.max))

    def _weights(self, scores: torch.Tensor) -> torch.Tensor:
        """(batch, vocabulary) scores -> probabilities as shares of the largest one; 0 where filtered out."""
        top_k, top_p, min_p = self.sampling.top_k, self.sampling.top_p, self.sampling.min_p
        # The differences first: whatever is divided, the largest stays 0.
        scores = (scores - scores.amax(-1, keepdim=True)) / self.sampling.temperature
        weights = scores.exp()
        if top_k:
            kept = scores.topk(min(top_k, scores.shape[-1])).values[:, -1:]
            weights.masked_fill_(scores < kept, 0.0)
        if top_p is not None and top_p < 1.0:
            weights = _nucleus(weights, top_p, top_k or _FIRST_CANDIDATES)
        if min_p is not None:
            weights.masked_fill_(weights < min_p, 0.0)
        return weights


def _checked(logits: torch.Tensor) -> torch.Tensor:
    low, high = logits.aminmax()  # either is nan if one of the logits is
    if not math.isfinite(low) or not math.isfinite(high):
        raise ProtocolError("outputs[0]", "logits must be finite numbers, and one is not")
    return logits


def _nucleus(weights: torch.Tensor, top_p: float, candidates: int) -> torch.Tensor:
    """Keep the largest weights of each row, until those before the next one reach ``top_p`` of all."""
    wanted = top_p * weights.sum(-1, keepdim=True, dtype=torch.float64)
    size = weights.shape[-1]
    while True:  # a whole vocabulary takes longer to sort than to read
        candidates = min(candidates, size)
        largest, ids = weights.topk(candidates)
        reached = largest.double().cumsum(-1)
        if candidates == size or bool((reached[:, -1:] >= wanted).all()):
            break
        candidates *= 8
    kept = reached - largest < wanted
    kept[:, 0] = True  # of top_p 0
    return torch.zeros_like(weights).scatter_(-1, ids, largest.masked_fill(~kept, 0.0))
