"""When to stop measuring: look until the verdict is known, and confirm every red on fresh processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from perfsuite.gate.deciding import Judgement, Verdict

_Process = TypeVar("_Process")  # whatever is known of one process that was measured

UNCONFIRMED = "a red verdict that was not confirmed"


@dataclass(frozen=True)
class Decision(Generic[_Process]):
    """The verdict, every process that it rests on, and in how many looks they came."""

    judgement: Judgement
    processes: list[_Process]
    looks: int


def decide(
    measure: Callable[[], Sequence[_Process]],
    judge: Callable[[Sequence[_Process]], Judgement],
    *,
    looks: int,
    time_limit_s: float = math.inf,
    renew: Callable[[], None] = lambda: None,
) -> Decision[_Process]:
    """Judge what ``measure`` returns, and more of it while the verdict is open, ``looks`` times at most.

    No look begins after ``time_limit_s``, but a red verdict is always measured once more, and again if nothing
    comes of it: it stays red only if these fresh processes alone lie above the margin as well. What was
    drawn by chance is not drawn twice. Before them ``renew`` is called: it replaces what processes share.
    """
    deadline = time.monotonic() + time_limit_s
    processes = list(measure())
    judgement, looked = judge(processes), 1
    while (
        judgement.verdict is Verdict.INCONCLUSIVE and looked < looks and time.monotonic() < deadline
    ):
        processes += measure()
        looked += 1
        judgement = judge(processes)
    if judgement.verdict is Verdict.REGRESSION:
        renew()
        fresh = list(measure())
        looked, most = looked + 1, looked + looks
        # Not a number where too few of them were undisturbed.
        while not math.isfinite((alone := judge(fresh)).change.value) and looked < most:
            fresh += measure()
            looked += 1
        processes += fresh
        judgement = judge(processes)
        if judgement.verdict is not Verdict.REGRESSION or not alone.change.value > 1 + alone.margin:
            judgement = replace(judgement, verdict=Verdict.INCONCLUSIVE, reason=UNCONFIRMED)
    return Decision(judgement, processes, looked)
