"""Micro-measurements of this machine, pass by pass, and the cost model's constants from their medians.

No model is loaded and no forward pass is run here: single calls, single operations, memory.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median

import torch

from perfsuite.bursts import Between, Burst
from perfsuite.cost_model import ROAD_OF
from perfsuite.diagnosis.null_worker import MOST_SWEPT
from perfsuite.diagnosis.probe import Probe
from perfsuite.diagnosis.roads import open_roads
from perfsuite.diagnosis.sweep import ROWS, Caller, Samples, sweep_keys
from perfsuite.diagnosis.trusted_operations import TrustedOperations
from perfsuite.machine_constants import MachineConstants, Rate, RateKey, rate_key
from perfsuite.measuring import collector_paused
from perfsuite.workload import Operation
from runtime.waiting import IdleTeams

TOUCHED_BYTES = 64 << 20

_PASSES = 3  # of the operations, per round

OperationKey = tuple[RateKey, tuple[int, ...]]


@dataclass(frozen=True)
class Findings:
    """The constants, and what else the micro-measurements show; seconds are for ``TOUCHED_BYTES``."""

    constants: MachineConstants
    samples: Mapping[str, Samples]
    first_touch_s: float
    warm_touch_s: float


class Calibration:
    """Holds the processes that are needed until it is closed; each ``run_round`` adds samples.

    Raises ArenaError when there is not enough memory, WorkerError or MeasurementError when a process fails.
    """

    def __init__(
        self,
        bursts: Sequence[Burst],
        between: Between,
        roads: Sequence[str],
        threads: int,
        rows: Sequence[int] = ROWS,
    ) -> None:
        """Prepare to measure ``bursts``, and calls over each of ``roads``, of which one must be shared memory.

        ``between`` is what the sides do between two of them.
        """
        self._bursts = {
            side: [b for b in bursts if b.side == side] for side in ("device", "trusted")
        }
        self._rows = rows
        self._rounds = 0
        self._seconds: dict[OperationKey, list[float]] = defaultdict(list)
        self._sweeps: list[float] = []
        self._touches: list[tuple[float, float]] = []
        self.samples = {road: Samples() for road in roads}
        self._resources = ExitStack()
        try:
            enter = self._resources.enter_context
            self._probe = enter(closing(Probe(self._bursts["device"], threads)))
            enter(IdleTeams())  # as on the trusted side of a forward pass
            clients = enter(open_roads(roads, between, threads))
            self._callers = {road: Caller(clients[road], between) for road in roads}
            self._other = self._callers["shared-memory"]
            trusted = [row for burst in self._bursts["trusted"] for row in burst.operations]
            builder = TrustedOperations(max((row.bytes for row in trusted), default=0))
            self._runs = {id(row): builder.build(row) for row in trusted}
        except BaseException:
            self._resources.close()
            raise

    @torch.no_grad()
    def run_round(self) -> None:
        """Measure everything once more, but what no stage depends on in the first round only.

        That is the roads that none takes, and the calls back to back.
        """
        with collector_paused():
            for road, caller in self._callers.items():
                if self._rounds and road not in ROAD_OF.values():
                    continue
                for cold in (True, False) if self._rounds == 0 else (True,):
                    for key in sweep_keys(cold, self._rows):
                        self.samples[road].add(key, caller.measure(key))
            for _ in range(_PASSES):
                self._run_bursts()
                self._touches.append(_touch())
        self._rounds += 1

    def _run_bursts(self) -> None:
        # Each side waits before a burst while the other one walks through memory: as in a forward pass.
        for number, burst in enumerate(self._bursts["device"]):
            self._other.sweep()
            for row, seconds in zip(burst.operations, self._probe.run(number), strict=True):
                self._keep(row, seconds)
        self._sweeps.append(self._probe.sweep())
        for burst in self._bursts["trusted"]:
            self._other.wait()
            for row in burst.operations:
                run = self._runs[id(row)]
                started = time.perf_counter()
                run()  # and release its results
                self._keep(row, time.perf_counter() - started)

    def _keep(self, operation: Operation, seconds: float) -> None:
        self._seconds[rate_key(operation), operation.shape].append(seconds)

    def findings(self) -> Findings:
        """Return what follows from all samples so far."""
        first, warm = (median(times) for times in zip(*self._touches, strict=True))
        return Findings(self.constants(), self.samples, first, warm)

    def constants(self) -> MachineConstants:
        """Return the constants as they follow from all samples so far."""
        work = {
            (rate_key(row), row.shape): row.work
            for bursts in self._bursts.values()
            for burst in bursts
            for row in burst.operations
        }
        rates: dict[RateKey, list[Rate]] = defaultdict(list)
        for (key, shape), samples in self._seconds.items():
            # The first faults memory in and fills the library's own caches.
            seconds = median(samples[1:] or samples)
            rates[key].append(Rate(shape, work[key, shape] / seconds))
        return MachineConstants(
            roads={road: samples.road() for road, samples in self.samples.items()},
            rates=dict(rates),
            bandwidth=2 * MOST_SWEPT / median(self._sweeps),  # read and written
        )

    def close(self) -> None:
        """End the processes. Closing twice is allowed."""
        self._resources.close()


def _touch() -> tuple[float, float]:
    """Return the seconds of filling new memory, whose pages the kernel must find first, and the same again."""
    memory = torch.empty(TOUCHED_BYTES, dtype=torch.uint8)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        memory.fill_(1)
        seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]
