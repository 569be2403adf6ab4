"""``--perf-slowdown NAME[:PHASE]=FACTOR``."""

from __future__ import annotations

from collections.abc import Sequence

from perfsuite.errors import UsageError
from runtime.errors import InputError
from runtime.slowdown import TOTAL, Slowdown


def parse_slowdowns(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return factors by phase, by subject.

    Raises:
        UsageError: for another form, an unknown phase, or a factor below 1.
    """
    found: dict[str, dict[str, float]] = {}
    for text in texts:
        left, equals, factor = text.rpartition("=")
        name, colon, phase = left.rpartition(":")
        # A test's node id has colons of its own: only a phase's name can follow the last one.
        if not colon or name.endswith(":"):
            name, phase = left, TOTAL
        try:
            if not equals or not name:
                raise ValueError
            factors = {phase: float(factor)}
            Slowdown(factors)
        except InputError as error:
            raise UsageError(f"--perf-slowdown {text}: {error}") from error
        except ValueError:
            raise UsageError(
                f"--perf-slowdown {text}: must be NAME=FACTOR or NAME:PHASE=FACTOR"
            ) from None
        found.setdefault(name, {}).update(factors)
    return found
