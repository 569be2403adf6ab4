"""When to stop measuring: look until the verdict is known, and confirm what would be acted on.

A verdict ends the looking, except that a red one, or an improvement, is measured once more: it stands only if
fresh processes, of servers started anew, lie beyond the margin by themselves as well. What was drawn by chance
is not drawn twice. Both directions are treated alike, so that noise makes as many of one as of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from perfsuite.gate.inference import Judgement, Verdict

PROCESSES = 6  # of a look
LOOKS = 6  # at most, before a confirmation
SERVERS = 12  # that processes are forked from, in turn
UNCONFIRMED = "not confirmed by fresh processes of new servers"

_Process = TypeVar("_Process")  # whatever is known of one process that was measured


@dataclass(frozen=True)
class Decision(Generic[_Process]):
    """The verdict, every process that it rests on, and in how many looks they came."""

    judgement: Judgement
    processes: list[_Process]
    looks: int


def decide(
    measure: Callable[[], Sequence[_Process]],
    judge: Callable[[Sequence[_Process], int], Judgement],
    *,
    looks: int = LOOKS,
    out_of_time: Callable[[], bool] = lambda: False,
    renew: Callable[[], None] = lambda: None,
    confirm: Callable[[], Sequence[_Process]] | None = None,
    extend_ends: bool = False,
) -> Decision[_Process]:
    """Judge what ``measure`` returns, and more of it while the verdict is open, ``looks`` times at most.

    Args:
        measure: Returns one look's fresh processes; none ends the looking.
        judge: Returns the verdict on all processes so far, given which look this is, from 1.
        looks: How often at most, without confirmation.
        out_of_time: Whether no further look may begin; a verdict is confirmed all the same.
        renew: Called before a confirmation: replaces the servers.
        confirm: Measures the confirmation's processes; None: ``measure`` does.
        extend_ends: Whether EXTEND ends the looking: something else than more processes will decide.
    """
    undecided = {Verdict.INCONCLUSIVE} if extend_ends else {Verdict.INCONCLUSIVE, Verdict.EXTEND}
    processes = list(measure())
    looked = 1
    judgement = judge(processes, looked)
    while (
        judgement.verdict in undecided
        and looked < looks
        and not out_of_time()
        and (more := measure())
    ):
        processes += more
        looked += 1
        judgement = judge(processes, looked)
    if judgement.verdict not in (Verdict.REGRESSION, Verdict.IMPROVED):
        return Decision(judgement, processes, looked)
    found = judgement.verdict
    renew()
    fresh: list[_Process] = []
    most = looked + looks
    confirmed = False
    while looked < most and (more := (confirm or measure)()):
        fresh += more
        looked += 1
        alone = judge(fresh, 1)
        confirmed = _beyond(alone, found)
        if math.isfinite(alone.change.value):
            break  # else too few of them were undisturbed
    processes += fresh
    together = judge(processes, min(looked, looks))
    if together.verdict is found and not confirmed:
        together = replace(together, verdict=Verdict.INCONCLUSIVE, reason=UNCONFIRMED)
    return Decision(together, processes, looked)


def _beyond(alone: Judgement, verdict: Verdict) -> bool:
    """Return whether a change lies beyond the margin, in the direction of ``verdict``."""
    change, allowed = alone.change.value, 1 + alone.margin
    return change > allowed if verdict is Verdict.REGRESSION else change < 1 / allowed
