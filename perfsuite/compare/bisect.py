"""The search for the first slow commit: pure, over commits in order and a function that judges one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Answer(StrEnum):
    """What is known of a commit against the good one."""

    FAST = "fast"
    SLOW = "slow"
    UNKNOWN = "unknown"  # it cannot be built or run, or stays undecided


@dataclass(frozen=True)
class Step:
    """A commit that was asked about, and how many were still possible before."""

    commit: str
    answer: Answer
    left: int


@dataclass(frozen=True)
class Found:
    """The commits of which the first slow one is one: a single one, unless those between could not be judged."""

    commits: Sequence[str]  # oldest first
    steps: Sequence[Step]


def search(
    commits: Sequence[str],
    ask: Callable[[str], Answer],
    *,
    tell: Callable[[Step], None] = lambda step: None,
) -> Found:
    """Find the first slow one of ``commits``, oldest first, of which the last is known to be slow.

    What comes before the first one is known to be fast. A commit of which nothing can be known is left out, and the
    nearest one is asked about instead, as ``git bisect skip`` does.

    Args:
        commits: At least one.
        ask: Called once for each commit that is asked about; some log2 of their number.
        tell: Called after each.
    """
    first, last = 0, len(commits) - 1  # the first slow one lies at or between these
    unknown: set[int] = set()
    steps: list[Step] = []
    while (candidate := _nearest(first, last, unknown)) is not None:
        commit = commits[candidate]
        step = Step(commit, ask(commit), last - first + 1)
        steps.append(step)
        tell(step)
        if step.answer is Answer.UNKNOWN:
            unknown.add(candidate)
        elif step.answer is Answer.SLOW:
            last = candidate
        else:
            first = candidate + 1
    return Found(commits[first : last + 1], steps)


def _nearest(first: int, last: int, unknown: set[int]) -> int | None:
    """Return the one nearest to the middle that may still be asked about: the last is known."""
    middle = (first + last - 1) / 2
    possible = [place for place in range(first, last) if place not in unknown]
    return min(possible, key=lambda place: abs(place - middle), default=None)
