"""From values to places, and where an axis has its ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps ``low`` to ``start`` and ``high`` to ``end``; with ``log``, by logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of ``value``, held between the ends."""
        low, high, at = (self._of(number) for number in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the scale, some ``about`` of them; on a logarithmic one per power of ten."""
        return (
            _log_ticks(self.low, self.high, about)
            if self.log
            else _ticks(self.low, self.high, about)
        )

    def _of(self, value: float) -> float:
        return math.log(max(value, 1e-300)) if self.log else value


def around(values: list[float], *, log: bool = False, zero: bool = False) -> tuple[float, float]:
    """Ends of a scale that holds ``values`` with some air; ``zero`` makes 0 the lower one."""
    low, high = min(values), max(values)
    if log:
        factor = max((high / low) ** 0.06, 1.05)
        return low / factor, high * factor
    if zero:
        return 0.0, high * 1.05 if high > 0 else 1.0
    air = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - air, high + air


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [count * step for count in range(first, last + 1)]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    inside: list[float] = []
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        marks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        inside = [mark for mark in marks if low <= mark <= high]
        if len(inside) >= min(about, 3):
            break
    every = math.ceil(len(inside) / (about + 1)) or 1
    return inside[::every]
