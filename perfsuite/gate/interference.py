"""Whether somebody else used the machine while a round was measured.

The rule, fixed before any result is seen: a round is disturbed when the processors were taken away by the
hypervisor (steal) or used by processes that do not belong to the measurement for more than a quarter of
one processor's time. Disturbed rounds are counted and left out. The kernel counts in ticks, so that a few
of them may be missing or too many in any difference: what these could explain is no disturbance.

So ticks say nothing of short rounds. For those the kernel's count of nanoseconds in which a measured process was
ready to run and others had its processor is exact: more than a tenth of a block is a disturbance too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DISTURBED_SHARE = 0.25  # of one processor
WAITED_SHARE = 0.1  # of a block's time, in which others had the measured process's processor
_TICKS_PER_S = 100  # USER_HZ, the same on every Linux that Python runs on
_BLUR_S = 2 / _TICKS_PER_S  # of a difference of sums of ticks


@dataclass(frozen=True)
class Usage:
    """Processor seconds since some time in the past, and when they were read."""

    at: float
    busy_s: float  # of all processes
    stolen_s: float
    own_s: float  # of the processes that are measured, all that they started, and this one


class Watch:
    """Compares what the whole machine does with what the measured processes say that they did."""

    def __init__(self, read: Callable[[float], Usage] | None = None) -> None:
        """``read`` replaces the kernel's counters: it is given the measured processes' seconds."""
        self._read = read or read_usage
        self._last: Usage | None = None

    def foreign_share(self, measured_s: float) -> float:
        """Return others' use since the last call, in processors: 1.0 is one of them all the time.

        ``measured_s``: processor seconds of the measured processes since they began. The first call
        returns 0.
        """
        before, now = self._last, self._read(measured_s)
        self._last = now
        if before is None or now.at <= before.at:
            return 0.0
        foreign = (now.busy_s - before.busy_s) - (now.own_s - before.own_s)
        stolen = now.stolen_s - before.stolen_s
        return max(0.0, foreign + max(0.0, stolen) - _BLUR_S) / (now.at - before.at)


def read_usage(measured_s: float) -> Usage:
    """Return the kernel's counters."""
    # user nice system idle iowait irq softirq steal guest guest_nice
    with Path("/proc/stat").open(encoding="ascii") as file:
        ticks = [int(text) for text in file.readline().split()[1:]]
    busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]
    return Usage(
        time.perf_counter(),
        busy / _TICKS_PER_S,
        ticks[7] / _TICKS_PER_S,
        time.process_time() + measured_s,
    )
