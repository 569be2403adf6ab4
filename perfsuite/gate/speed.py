"""Whether the machine ran as fast as when the baseline was recorded.

Processors change their clock, and on a shared host what a neighbour leaves of a core. A yardstick takes out
what slows both alike; but system calls and copies follow the clock less than products do, so that the ratio
of a stage with many calls rises by a tenth where the yardstick becomes a fifth faster. So like is
compared with like: a round counts if its yardstick took as long as the baseline's, within ``TOLERANCE``. The rule
is fixed before any result is seen, and it knows nothing of the subject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from perfsuite.gate.pairing import Replicate

TOLERANCE = 0.12  # of the yardstick's seconds, as the logarithm of their ratio


def typical_s(replicates: Sequence[Replicate]) -> float:
    """Return the seconds that the yardstick took in the median of all rounds, not a number without any."""
    seconds = [value for replicate in replicates for value in replicate.yardstick]
    return median(seconds) if seconds else math.nan


def at_speed(replicates: Sequence[Replicate], yardstick_s: float) -> list[Replicate]:
    """Return the replicates with those rounds alone in which the yardstick took some ``yardstick_s``."""
    return [_at_speed(replicate, yardstick_s) for replicate in replicates]


def _at_speed(replicate: Replicate, yardstick_s: float) -> Replicate:
    kept = [
        number
        for number, seconds in enumerate(replicate.yardstick)
        if abs(math.log(seconds / yardstick_s)) <= TOLERANCE
    ]
    return replace(
        replicate,
        rounds=[replicate.rounds[number] for number in kept],
        yardstick=[replicate.yardstick[number] for number in kept],
        off_speed=replicate.off_speed + len(replicate.rounds) - len(kept),
    )
