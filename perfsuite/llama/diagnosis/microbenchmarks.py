"""Microbenchmarks of this machine, pass by pass, and the cost model's constants from their medians.

No model is loaded and no forward pass is run here: single calls, single operations, memory.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby
from statistics import median

import torch

from perfsuite.llama.bursts import Between, Burst, Pattern, weights_apart
from perfsuite.llama.cost_model import route_of
from perfsuite.llama.diagnosis.null_worker import MOST_SWEPT
from perfsuite.llama.diagnosis.probe import Probe, timed
from perfsuite.llama.diagnosis.routes import open_routes
from perfsuite.llama.diagnosis.sweep import ROWS, Caller, Samples, sweep_keys
from perfsuite.llama.diagnosis.trusted_operations import TrustedOperations
from perfsuite.llama.machine_constants import MachineConstants, Rate, RateKey, rate_key
from perfsuite.llama.measuring import collector_paused
from runtime.openmp import IdleTeams
from runtime.transports.registry import TRANSPORTS

TOUCHED_BYTES = 64 << 20

_WARM_UP = 9  # calls that do not count: whatever ran before has taken the caches
_PASSES = 2  # over the operations, per round
_LAYERS = 3  # in a row: all but the first find what a layer leaves in the caches

OperationKey = tuple[RateKey, tuple[int, ...]]


@dataclass(frozen=True)
class Findings:
    """The constants, and what else the microbenchmarks show; seconds are for ``TOUCHED_BYTES``."""

    constants: MachineConstants
    samples: Mapping[str, Samples]
    first_touch_s: float
    warm_touch_s: float


class Microbenchmarks:
    """Holds the processes that are needed until it is closed; each ``run_round`` adds samples.

    Raises ArenaError when there is not enough memory, WorkerError or MeasurementError when a process fails.
    """

    def __init__(
        self,
        patterns: Sequence[Pattern],
        between: Between,
        routes: Sequence[str],
        threads: int,
        rows: Sequence[int] = ROWS,
    ) -> None:
        """Prepare to measure the operations of ``patterns``, and calls over each of ``routes``.

        ``between`` is what the sides do between two calls.
        """
        self._patterns = patterns
        self._rows = rows
        self._rounds = 0
        self._seconds: dict[OperationKey, list[float]] = defaultdict(list)
        self._sweeps: list[float] = []
        self._touches: list[tuple[float, float]] = []
        self.samples = {route: Samples() for route in routes}
        self._resources = ExitStack()
        try:
            enter = self._resources.enter_context
            device = {
                burst: weights_apart(pattern, MOST_SWEPT) if burst.layers > 1 else 1
                for pattern in patterns
                for burst in pattern
                if burst.side == "device"
            }
            self._probe = enter(closing(Probe(device, threads)))
            enter(IdleTeams())  # as on the trusted side of a forward pass
            clients = enter(open_routes(routes, between, threads))
            self._callers = {route: Caller(clients[route], between) for route in routes}
            every = dict.fromkeys(burst for pattern in patterns for burst in pattern)
            trusted = [burst for burst in every if burst.side == "trusted"]
            largest = max((row.bytes for burst in trusted for row in burst.operations), default=0)
            builder = TrustedOperations(largest)
            self._trusted_runs = {
                burst: [builder.build(row) for row in burst.operations] for burst in trusted
            }
        except BaseException:
            self._resources.close()
            raise

    @torch.no_grad()
    def run_round(self) -> None:
        """Measure everything once more, but what no stage depends on in the first round only.

        That is the routes that none takes, and the calls with hot caches.
        """
        with collector_paused():
            for route, caller in self._callers.items():
                if self._rounds and route not in map(route_of, TRANSPORTS):
                    continue
                for cold in (True, False) if self._rounds == 0 else (True,):
                    keys = list(sweep_keys(cold, self._rows))
                    for key in keys[:_WARM_UP]:
                        caller.measure(key)
                    for key in keys:
                        self.samples[route].add(key, caller.measure(key))
            for _ in range(_PASSES):
                for pattern in self._patterns:
                    self._run(pattern)
                self._sweeps.append(self._probe.sweep())
                self._touches.append(_touch())
        self._rounds += 1

    def _run(self, pattern: Pattern) -> None:
        """Run the bursts of both sides in turn, those of a layer ``_LAYERS`` times: as in a forward pass."""
        for layers, group in groupby(pattern, lambda burst: burst.layers):
            bursts = list(group)
            for _ in range(min(layers, _LAYERS)):
                for burst in bursts:
                    self._run_burst(burst)

    def _run_burst(self, burst: Burst) -> None:
        on_device = burst.side == "device"
        taken = self._probe.run(burst) if on_device else map(timed, self._trusted_runs[burst])
        for row, seconds in zip(burst.operations, taken, strict=True):
            self._seconds[rate_key(row), row.shape].append(seconds)

    def findings(self) -> Findings:
        """Return what follows from all samples so far."""
        first, warm = (median(times) for times in zip(*self._touches, strict=True))
        return Findings(self.constants(), self.samples, first, warm)

    def constants(self) -> MachineConstants:
        """Return the constants as they follow from all samples so far."""
        work = {
            (rate_key(row), row.shape): row.work
            for pattern in self._patterns
            for burst in pattern
            for row in burst.operations
        }
        rates: dict[RateKey, list[Rate]] = defaultdict(list)
        for (key, shape), samples in self._seconds.items():
            # The first faults memory in and fills the library's own caches.
            seconds = median(samples[1:] or samples)
            rates[key].append(Rate(shape, work[key, shape] / seconds))
        return MachineConstants(
            routes={route: samples.route() for route, samples in self.samples.items()},
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
