"""From a prediction's error to the constant that is behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

CONSTANT_OF: Mapping[str, str] = MappingProxyType(
    {
        "serialize": "serialize: seconds per call and per byte packed",
        "transport": "transport: seconds per call and per byte carried",
        "device": "device: FLOP/s and bytes/s of the worker's operations",
        "deserialize": "deserialize: seconds per call and per byte unpacked",
        "trusted": "trusted: bytes/s of the trusted side's operations",
    }
)
"""Per phase, the constant that its error hangs on."""


@dataclass(frozen=True)
class Moved:
    """A phase that takes more than predicted: the constant behind it, seconds too many, and their factor."""

    phase: str
    constant: str
    excess_s: float
    factor: float


def moved_constant(
    measured: Mapping[str, float],
    predicted: Mapping[str, float],
    *,
    tolerance: float = 0.25,
    share: float = 0.1,
) -> Moved | None:
    """Name the constant that moved: the phase with the greatest excess over its prediction.

    Both map phases to a time, in one unit (seconds, or multiples of a reference). An excess counts beyond
    ``tolerance`` of its own prediction, and if it is at least ``share`` of the predicted total, by default
    about what the model itself errs by (``docs/diagnosis.md``); None if there is none. Given the phases of an
    earlier run for ``predicted``, it says what changed since.
    """
    total = sum(predicted.values())
    excess = {phase: measured[phase] - predicted[phase] for phase in predicted if phase in measured}
    counting = {
        phase: seconds
        for phase, seconds in excess.items()
        if seconds > tolerance * predicted[phase] and seconds >= share * total
    }
    if not counting:
        return None
    phase = max(counting, key=counting.__getitem__)
    factor = measured[phase] / predicted[phase] if predicted[phase] > 0 else math.inf
    return Moved(phase, CONSTANT_OF[phase], counting[phase], factor)
