"""Micro-measurements of this machine, pass by pass, and the cost model's constants from their medians.

No model is loaded and no forward pass is run here: single calls, single operations, memory.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from types import TracebackType
from typing import Self

import torch

from perfsuite.diagnosis.probe import Probe, Step, bandwidth
from perfsuite.diagnosis.roads import open_road
from perfsuite.diagnosis.sweep import ROWS, Caller, Samples, sweep_keys
from perfsuite.diagnosis.trusted_operations import TrustedOperations
from perfsuite.machine_constants import MachineConstants, Rate, RateKey, rate_key
from perfsuite.measuring import collector_paused
from perfsuite.workload import Operation, operations
from runtime.checkpoints import ModelConfig
from runtime.stages import Stage
from runtime.waiting import IdleTeams

_PASSES = 3  # of the operations, per round

OperationKey = tuple[RateKey, tuple[int, ...]]


def steps(config: ModelConfig, stages: Sequence[Stage], tokens: Sequence[int]) -> Iterator[Step]:
    """Yield the distinct operations of ``stages`` at each of these lengths, in a forward's order.

    Those that follow an operation of the other side do so after a wait.
    """
    seen: set[OperationKey] = set()
    for count in tokens:
        for stage in stages:
            side = ""
            for operation in operations(config, stage, count):
                key = (rate_key(operation), operation.shape)
                if key not in seen:
                    yield Step(operation, operation.side != side)
                seen.add(key)
                side = operation.side


class Calibration:
    """A context manager with the processes that are needed; each ``run_round`` adds samples.

    Raises ArenaError when there is not enough memory, WorkerError or MeasurementError when a process fails.
    """

    def __init__(
        self,
        measured: Sequence[Step],
        roads: Sequence[str],
        threads: int,
        rows: Sequence[int] = ROWS,
    ) -> None:
        self._device = [step for step in measured if step.operation.side == "device"]
        self._trusted = [step for step in measured if step.operation.side == "trusted"]
        self._rows = rows
        self._rounds = 0
        self._seconds: dict[OperationKey, list[float]] = defaultdict(list)
        self._sweeps: list[float] = []
        self.samples = {road: Samples() for road in roads}
        self._resources = ExitStack()
        try:
            enter = self._resources.enter_context
            self._probe = enter(Probe(self._device, threads))
            enter(IdleTeams())  # as on the trusted side of a forward pass
            self._callers = {road: Caller(enter(open_road(road, threads))) for road in roads}
            self._pause = Caller(enter(open_road("shared-memory", threads)))
            largest = max((step.operation.bytes for step in self._trusted), default=0)
            builder = TrustedOperations(largest)
            self._runs = [builder.build(step.operation) for step in self._trusted]
        except BaseException:
            self._resources.close()
            raise

    @torch.no_grad()
    def run_round(self) -> None:
        """Measure everything once more; the first round also makes the calls back to back."""
        with collector_paused():
            for road, caller in self._callers.items():
                for cold in (True, False) if self._rounds == 0 else (True,):
                    for key in sweep_keys(cold, self._rows):
                        self.samples[road].add(key, caller.measure(key))
            for _ in range(_PASSES):
                self._run_operations()
        self._rounds += 1

    def _run_operations(self) -> None:
        seconds, swept = self._probe.run()
        self._sweeps.append(swept)
        for step, run in zip(self._trusted, self._runs, strict=True):
            if step.after_wait:
                self._pause.wait()
            started = time.perf_counter()
            run()  # and release its results
            self._keep(step.operation, time.perf_counter() - started)
        for step, taken in zip(self._device, seconds, strict=True):
            self._keep(step.operation, taken)

    def _keep(self, operation: Operation, seconds: float) -> None:
        self._seconds[rate_key(operation), operation.shape].append(seconds)

    def constants(self) -> MachineConstants:
        """Return the constants as they follow from all samples so far."""
        rates: dict[RateKey, list[Rate]] = defaultdict(list)
        for step in (*self._device, *self._trusted):
            key, shape = rate_key(step.operation), step.operation.shape
            # The first pass faults memory in and fills the library's own caches.
            samples = self._seconds[key, shape]
            rates[key].append(Rate(shape, step.operation.work / median(samples[1:] or samples)))
        return MachineConstants(
            roads={road: samples.road() for road, samples in self.samples.items()},
            rates=dict(rates),
            bandwidth=bandwidth(median(self._sweeps)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.close()


def kind_rates(constants: MachineConstants) -> Mapping[str, tuple[float, float]]:
    """Return the lowest and the highest rate of each kind of operation, FLOP/s or bytes/s."""
    found: dict[str, list[float]] = defaultdict(list)
    for (side, kind, dtype, _), rates in constants.rates.items():
        found[f"{side} {kind} {dtype}"] += [rate.per_second for rate in rates]
    return {name: (min(rates), max(rates)) for name, rates in found.items()}
