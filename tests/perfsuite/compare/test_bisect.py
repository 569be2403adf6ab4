from __future__ import annotations

import itertools
import math

import pytest

from perfsuite.compare.bisect import Answer, Step, search


def asked(slow: int, unknown: set[int]) -> tuple[dict[str, Answer], list[Step]]:
    return {
        str(place): Answer.UNKNOWN
        if place in unknown
        else Answer.SLOW
        if place >= slow
        else Answer.FAST
        for place in range(20)
    }, []


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_the_first_slow_one_is_found_in_few_steps(count: int) -> None:
    commits = [str(place) for place in range(count)]
    for slow in range(count):
        answers, told = asked(slow, set())
        found = search(commits, answers.__getitem__, tell=told.append)
        assert found.commits == [str(slow)]
        assert list(found.steps) == told
        assert len(told) <= math.ceil(math.log2(count)) if count > 1 else not told


def test_what_cannot_be_judged_leaves_as_few_as_can_be_told_apart() -> None:
    commits = [str(place) for place in range(7)]
    for size in range(4):
        for unknown in map(set, itertools.combinations(range(6), size)):  # the last is known
            for slow in range(7):
                answers, told = asked(slow, unknown)
                found = search(commits, answers.__getitem__, tell=told.append)
                # From after the last one that is known to be fast to the first known to be slow.
                fast = max((place for place in range(slow) if place not in unknown), default=-1)
                first = min(place for place in range(slow, 7) if place not in unknown)
                assert found.commits == commits[fast + 1 : first + 1]
                assert len({step.commit for step in told}) == len(told)  # none is asked about twice
