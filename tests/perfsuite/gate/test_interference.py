from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.gate.interference import DISTURBED_SHARE, Usage, Watch, read_usage


def shares(*usages: Usage) -> Sequence[float]:
    """What a watch says when it reads these, one after the other."""
    left = iter(usages)
    watch = Watch(lambda measured_s: next(left))
    return [watch.foreign_share(0.0) for _ in usages]


START = Usage(at=100.0, busy_s=5000.0, stolen_s=30.0, own_s=7.0)


def later(seconds: float, busy_s: float, stolen_s: float, own_s: float) -> Usage:
    return Usage(
        START.at + seconds, START.busy_s + busy_s, START.stolen_s + stolen_s, START.own_s + own_s
    )


def test_what_is_measured_is_no_interference() -> None:
    # Its own time, and that of all it starts: ``own_s`` has both.
    assert shares(START, later(1.0, busy_s=1.0, stolen_s=0.0, own_s=1.0)) == [0.0, 0.0]
    assert shares(START, later(1.0, busy_s=2.0, stolen_s=0.0, own_s=2.0)) == [0.0, 0.0]


def test_what_others_use_and_what_is_stolen_is() -> None:
    _, others = shares(START, later(1.0, busy_s=2.0, stolen_s=0.0, own_s=1.0))
    assert others == pytest.approx(0.98)
    _, stolen = shares(START, later(1.0, busy_s=0.6, stolen_s=0.4, own_s=0.6))
    assert stolen == pytest.approx(0.38)
    assert min(others, stolen) > DISTURBED_SHARE


def test_a_few_ticks_are_no_interference() -> None:
    assert shares(START, later(0.01, busy_s=0.03, stolen_s=0.0, own_s=0.01)) == [0.0, 0.0]
    # The counters of steal may go back.
    assert shares(START, later(0.1, busy_s=0.1, stolen_s=-0.5, own_s=0.1))[1] == 0.0


def test_the_first_call_knows_nothing_and_a_clock_that_stands_says_nothing() -> None:
    assert shares(START) == [0.0]
    assert shares(START, later(0.0, busy_s=1.0, stolen_s=0.0, own_s=0.0)) == [0.0, 0.0]


def test_each_call_is_about_the_time_since_the_last() -> None:
    first = later(1.0, busy_s=2.0, stolen_s=0.0, own_s=1.0)
    second = later(2.0, busy_s=3.0, stolen_s=0.0, own_s=2.0)
    assert shares(START, first, second) == [0.0, pytest.approx(0.98), 0.0]


@given(
    st.floats(1e-3, 1e3),
    st.floats(0, 1e3),
    st.floats(-1.0, 1e3),
    st.floats(0, 1e3),
    st.floats(0, 1),
)
def test_no_more_own_time_makes_more_interference(
    seconds: float, busy_s: float, stolen_s: float, own_s: float, more_s: float
) -> None:
    _, less = shares(START, later(seconds, busy_s, stolen_s, own_s + more_s))
    _, share = shares(START, later(seconds, busy_s, stolen_s, own_s))
    assert 0 <= less <= share


def test_the_kernels_counters_are_read() -> None:
    usage = read_usage(2.5)
    again = read_usage(2.5)
    assert usage.busy_s > 0
    assert usage.own_s > 2.5
    assert again.at > usage.at
    assert again.own_s >= usage.own_s
