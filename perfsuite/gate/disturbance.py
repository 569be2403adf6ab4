"""Whether somebody else used the machine while a round was measured.

The rule, fixed before any result is seen: a round is disturbed when the processors were taken away by the
hypervisor (steal) or used by processes that do not belong to the measurement for more than a quarter of
one processor's time. Disturbed rounds are counted and left out. The kernel counts in ticks, so that a few
of them may be missing or too many in any difference: what these could explain is no disturbance.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DISTURBED_SHARE = 0.25  # of one processor
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BLUR_S = 2 / _TICKS_PER_S  # of a difference of sums of ticks


@dataclass(frozen=True)
class Usage:
    """Processor seconds since some time in the past, and when they were read."""

    at: float
    busy_s: float  # of all processes
    stolen_s: float
    own_s: float  # of the processes that are measured, and their children


class Watch:
    """Compares what the whole machine does with what the measured processes do."""

    def __init__(self, pids: Sequence[int] = ()) -> None:
        self.pids = [os.getpid(), *pids]
        self._last = self._read()

    def foreign_share(self) -> float:
        """Return others' use since the last call, in processors: 1.0 is one of them all the time."""
        before, self._last = self._last, self._read()
        now = self._last
        seconds = now.at - before.at
        if seconds <= 0:
            return 0.0
        foreign = (now.busy_s - before.busy_s) - (now.own_s - before.own_s)
        stolen = now.stolen_s - before.stolen_s
        return max(0.0, foreign + max(0.0, stolen) - _BLUR_S) / seconds

    def _read(self) -> Usage:
        # user nice system idle iowait irq softirq steal guest guest_nice
        with Path("/proc/stat").open(encoding="ascii") as file:
            ticks = [int(text) for text in file.readline().split()[1:]]
        busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]
        return Usage(
            time.perf_counter(),
            busy / _TICKS_PER_S,
            ticks[7] / _TICKS_PER_S,
            sum(map(_process_s, self.pids)),
        )


def _process_s(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # utime and stime
