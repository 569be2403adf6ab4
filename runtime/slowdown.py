"""Phases made really slower on request, so that whoever relies on an alarm can see it go off."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from runtime.errors import InputError

PHASES = ("serialize", "transport", "device", "deserialize", "trusted")
TOTAL = "total"  # the whole forward pass, by waiting in the worker

_SLEEP_S = (
    2e-3  # waits beyond this sleep; the rest spins, because a sleep ends when the kernel likes
)


class Slowdown:
    """Factors by phase, at least 1 each; phases that are not named stay as they are."""

    def __init__(self, factors: Mapping[str, float] | None = None) -> None:
        """Check the factors.

        Raises:
            InputError: for an unknown phase, or a factor that is below 1 or not finite.
        """
        self.factors = dict(factors or {})
        for phase, factor in self.factors.items():
            if phase not in (*PHASES, TOTAL):
                raise InputError(
                    f"slowdown: {phase!r} is no phase; choose one of {', '.join((*PHASES, TOTAL))}"
                )
            if not 1.0 <= factor < math.inf:
                raise InputError(f"slowdown: {phase} must be at least 1 and finite, got {factor}")

    def stretch(self, phase: str, seconds: float) -> float:
        """Wait as long as makes ``seconds`` of ``phase`` its factor longer; return the seconds waited."""
        factor = self.factors.get(phase)
        if factor is None or seconds <= 0:
            return 0.0
        began = time.perf_counter()
        end = began + (factor - 1) * seconds
        if end - began > _SLEEP_S:
            time.sleep(end - began - _SLEEP_S / 2)
        while time.perf_counter() < end:
            pass
        return time.perf_counter() - began

    def arguments(self) -> list[str]:
        """Return the worker's command line options that say the same."""
        return [
            text
            for phase, factor in self.factors.items()
            for text in ("--slowdown", f"{phase}={factor}")
        ]


def parse_factor(text: str) -> tuple[str, float]:
    """Return the phase and the factor of ``PHASE=FACTOR``.

    Raises:
        InputError: if it has another form.
    """
    phase, equals, factor = text.partition("=")
    try:
        return phase, float(factor) if equals else math.nan
    except ValueError:
        raise InputError(f"slowdown: {text!r} must be PHASE=FACTOR") from None
