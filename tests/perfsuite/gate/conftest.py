"""A machine that is simulated: what is measured on it moves its clock, and nothing else does."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest

from perfsuite.gate.gate import BASE, Open
from perfsuite.gate.interference import Usage, Watch
from perfsuite.gate.sampling import Pair, Runner

START_S = 0.3  # for which a process runs its test up to the gate
SERVERS = 6

# Seconds of a call, the same in every process, or by its number.
Seconds: TypeAlias = float | Callable[[int], float]


@dataclass(frozen=True)
class Block:
    """Runs in a row, as a measured process tells of them."""

    seconds: Sequence[float]
    phases: Sequence[Mapping[str, float]] = ()
    cpu_s: float = 0.0
    peak_bytes: int | None = None
    waited: float = 0.0


@dataclass
class Machine:
    """Its processors' counters, the processes that were opened on it, and the order of their blocks."""

    process_noise: float = 0.003  # standard deviations of logarithms
    run_noise: float = 0.002
    tenth: float = 1.0  # times as long takes each tenth run
    foreign: Callable[[int], float] = lambda process: 0.0  # processors that others use meanwhile
    now: float = 0.0
    busy_s: float = 0.0
    processes: int = 0
    open: int = 0
    blocks: list[tuple[str, int]] = field(default_factory=list)  # role and calls in it
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def clock(self) -> float:
        return self.now

    def watch(self) -> Watch:
        return Watch(lambda measured_s: Usage(self.now, self.busy_s, 0.0, measured_s))

    def move(self, seconds: float) -> None:
        self.now += seconds
        self.busy_s += seconds * (1 + self.foreign(self.processes - 1))

    def opens(
        self,
        subject: Seconds,
        references: Mapping[str, Seconds] | None = None,
        *,
        phases: Callable[[float], Mapping[str, float]] | None = None,
        peak_bytes: Callable[[int], int] | None = None,
        grown_bytes: int = 0,
        notes: Sequence[str] = (),
    ) -> Open:
        """Return what opens a fresh process of ``subject``; the references' default is one of 1 ms.

        ``peak_bytes``: of each process, by its number; the subject's is larger by ``grown_bytes``.
        """

        def grown(process: int) -> int:
            return grown_bytes + (0 if peak_bytes is None else peak_bytes(process))

        subjects = None if peak_bytes is None else grown
        known = {"own": 1e-3} if references is None else references

        @contextmanager
        def opened(names: Sequence[str]) -> Iterator[Pair]:
            number = self.processes
            self.processes += 1
            self.open += 1
            server = f"server {number % SERVERS}"
            effect = math.exp(self.random.gauss(0, self.process_noise))
            try:
                self.move(START_S)
                yield Pair(
                    _Faked(self, "subject", _of(subject, number) * effect, phases, subjects).told,
                    {
                        name: _Faked(self, name, _of(known[name], number), None, peak_bytes).told
                        for name in names
                    },
                    server,
                    notes,
                )
            finally:
                self.open -= 1

        return opened


class _Faked:
    """A runner in a process of its own, which takes so many seconds a call, give or take a little."""

    def __init__(
        self,
        machine: Machine,
        role: str,
        seconds: float,
        phases: Callable[[float], Mapping[str, float]] | None,
        peak_bytes: Callable[[int], int] | None,
    ) -> None:
        self._machine, self._role, self._seconds = machine, role, seconds
        self._phases, self._peak_bytes = phases, peak_bytes
        self._number = machine.processes - 1
        self._cpu_s, self._runs = 0.0, 0

    @property
    def told(self) -> Runner:
        return Runner(1 if self._role == BASE else hash(self._role), self._calibrate, self._measure)

    def _run(self, loops: int) -> float:
        seconds = self._seconds * math.exp(self._machine.random.gauss(0, self._machine.run_noise))
        self._runs += 1
        if self._runs % 10 == 0:
            seconds *= self._machine.tenth
        self._cpu_s += loops * seconds
        self._machine.move(loops * seconds)
        return seconds

    def _calibrate(self, run_s: float) -> tuple[int, float]:
        loops = max(1, math.ceil(run_s / self._seconds))
        return loops, self._run(loops)

    def _measure(self, runs: int, loops: int, discarded: int) -> Block:
        self._machine.blocks.append((self._role, loops))
        for _ in range(discarded):
            self._run(loops)
        seconds = [self._run(loops) for _ in range(runs)]
        return Block(
            seconds,
            [] if self._phases is None else [self._phases(one) for one in seconds],
            self._cpu_s,
            None if self._peak_bytes is None else self._peak_bytes(self._number),
        )


def _of(seconds: Seconds, number: int) -> float:
    return seconds(number) if callable(seconds) else seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()
