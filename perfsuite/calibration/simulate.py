"""Suites that nobody had to wait for: how often the gate's rule is wrong, by the kind of noise.

A generator of log-ratios with the effects that were met on real machines feeds the gate's own functions:
``conditioning``, ``inference`` and ``sequential.decide``. Nothing is measured and nothing depends on the machine
that this runs on. The same noise is judged unchanged and with each slow-down added.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsuite.gate import inference, sequential
from perfsuite.gate.inference import Hours, Judgement, Sample, Verdict
from perfsuite.gate.sequential import Decision
from perfsuite.render import blocks
from perfsuite.render.blocks import Table, columns

CHANGES = (0.0, 0.03, 0.05, 0.10)  # shares by which a benchmark is slower
PER_RECORDING = 36  # processes
EXTENSIONS = 10
KEPT = 8  # recordings of a baseline
_REFERENCE_S = 5e-3  # at the machine's usual speed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """The noise of one benchmark. Spreads are standard deviations of the logarithm."""

    process: float  # the scale of a t distribution
    tails: float = math.inf  # its degrees of freedom
    server: float = 0.0
    hour: float = 0.0  # of a recording, or a run
    drift: float = 0.0  # within a run: first-order autoregressive
    memory: float = 6.0  # processes after which a drift has lost two thirds
    outliers: float = 0.0  # share of processes that are slower, by up to ``outlier``
    outlier: float = 0.5
    modes: float = 0.0  # share of processes, or of servers, in the slower of two modes
    mode: float = 0.0  # their distance
    modes_of_servers: bool = False
    slope: float = 0.0  # of the log-ratio over the log of the reference's seconds
    speed: float = 0.02  # of the reference's seconds between processes
    speed_hours: float = 0.0  # between hours


class Run:
    """One run, or recording: it has an hour and servers, and gives processes one after the other."""

    def __init__(
        self, noise: Noise, rng: np.random.Generator, *, servers: int, speed: float = 0.0
    ) -> None:
        """``speed`` is added to the log of the reference's seconds."""
        self._noise, self._rng, self._servers = noise, rng, servers
        self._hour = rng.normal(0, noise.hour)
        self._log_s = speed + rng.normal(0, noise.speed_hours)
        self._drifted = rng.normal(0, noise.drift)
        self._started = 0  # servers before those of now
        self._made = 0
        self.renew()

    def renew(self) -> None:
        """Start servers anew."""
        noise, rng = self._noise, self._rng
        self._levels = rng.normal(0, noise.server, self._servers)
        if noise.modes_of_servers:
            self._levels += noise.mode * (rng.random(self._servers) < noise.modes)
        self._started += self._servers
        self._made = 0

    def processes(self, count: int) -> tuple[Array, Array, NDArray[np.int64]]:
        """Return log-ratios, seconds of the reference and servers of the next ones, all (count,)."""
        noise, rng = self._noise, self._rng
        if math.isinf(noise.tails):
            rest = rng.normal(0, noise.process, count)
        else:
            rest = noise.process * rng.standard_t(noise.tails, count)
        log_s = rng.normal(0, noise.speed, count)
        log_s = log_s + self._log_s
        servers = np.arange(self._made, self._made + count) % self._servers
        self._made += count
        values = self._hour + rest + self._levels[servers] + noise.slope * log_s
        if noise.drift:
            values += self._drift(count)
        if noise.outliers:
            values += (rng.random(count) < noise.outliers) * rng.uniform(0, noise.outlier, count)
        if noise.modes and not noise.modes_of_servers:
            values += noise.mode * (rng.random(count) < noise.modes)
        return values, _REFERENCE_S * np.exp(log_s), servers + self._started

    def _drift(self, count: int) -> Array:
        kept = math.exp(-1 / self._noise.memory)
        steps = self._rng.normal(0, self._noise.drift * math.sqrt(1 - kept**2), count)
        drifts = np.empty(count)
        for place, step in enumerate(steps):
            drifts[place] = self._drifted = kept * self._drifted + float(step)
        return drifts


@dataclass(frozen=True)
class Condition:
    """Suites of benchmarks with these noises, against baselines of so many recordings."""

    name: str
    noises: Sequence[Noise]
    recordings: int = 4
    speed_off: float = 0.0  # of the run's log speed against the recordings'
    paired: bool = False  # a comparison of two revisions: no baseline
    margin: float | None = None
    servers: int = sequential.SERVERS
    alone: bool = False  # other benchmarks of the machine are not asked how hours differ


def _recorded(
    hour: float, drift: float, *stages: tuple[float, float, float, float, float]
) -> list[Noise]:
    return [
        Noise(
            process,
            tails,
            slope=slope,
            speed=speed,
            speed_hours=speed_hours,
            hour=hour,
            drift=drift,
            server=0.003,
        )
        for process, tails, slope, speed, speed_hours in stages
    ]


# As 400 processes of the four stages had it on a quiet machine. Scale and tails are those of the standard deviation
# and the median absolute deviation of what the slope leaves within 24 consecutive processes, hours and drift of
# what means of 24 consecutive ones differ by beyond that.
QUIET = _recorded(
    0.004,
    0.005,
    (0.0177, 12, -0.31, 0.059, 0.029),
    (0.0184, 5, -0.31, 0.045, 0.050),
    (0.0164, 4, -0.43, 0.070, 0.059),
    (0.0165, 3, -0.61, 0.056, 0.052),
)
# The same of 207 processes on a machine with neighbours.
NEIGHBOURS = _recorded(
    0.012,
    0.008,
    (0.0283, 7, -0.12, 0.089, 0.039),
    (0.0550, math.inf, 0.15, 0.161, 0.050),
    (0.0198, 3, 0.22, 0.062, 0.003),
    (0.0244, 7, -0.26, 0.058, 0.070),
)
CALLABLE = Noise(0.02, server=0.005)
"""A user's callable: processes that differ as on a quiet machine, a reference that tracks it."""


def conditions() -> list[Condition]:
    """Return the table's."""

    def all_of(noises: Sequence[Noise], **changed: Any) -> list[Noise]:
        return [replace(noise, **changed) for noise in noises]

    callables = [CALLABLE] * 4
    hours = (0.01, 0.02, 0.03)
    still = all_of(QUIET, speed_hours=0.0, speed=0.01)
    return [
        Condition("quiet, baseline extended three times", QUIET),
        Condition("quiet, recorded once", QUIET, recordings=1),
        Condition("quiet, without other benchmarks' hours", QUIET, alone=True),
        Condition("machine with neighbours", NEIGHBOURS),
        Condition("machine with neighbours, baseline extended seven times", NEIGHBOURS, 8),
        Condition(
            "machine with neighbours, compare (margin 5 %)", NEIGHBOURS, paired=True, margin=0.05
        ),
        *(
            Condition(f"whole hours differ by {100 * hour:.0f} %", all_of(QUIET, hour=hour))
            for hour in hours
        ),
        Condition(
            "whole hours differ by 3 %, without other benchmarks' hours",
            all_of(QUIET, hour=0.03),
            alone=True,
        ),
        Condition(
            "whole hours differ by 3 % for one benchmark, 0.4 % for three",
            [*all_of(QUIET[:1], hour=0.03), *QUIET[1:]],
        ),
        *(
            Condition(
                f"whole hours differ by {100 * hour:.0f} %, recorded once",
                all_of(QUIET, hour=hour),
                1,
            )
            for hour in hours
        ),
        Condition(
            "servers of two speeds, 8 % apart",
            all_of(QUIET, modes=0.5, mode=0.08, modes_of_servers=True),
        ),
        *(
            Condition(
                f"a user's callable, {100 * hour:.0f} % between hours", all_of(callables, hour=hour)
            )
            for hour in hours
        ),
        Condition("speed of the host 10 % off what is stored once", still, 1, speed_off=-0.1),
        Condition(
            "speed of the host 10 % off, baseline extended three times", still, speed_off=-0.1
        ),
        Condition("one process in ten up to 50 % slower", all_of(QUIET, outliers=0.1)),
        Condition(
            "two in five processes 1.7 times slower",
            all_of(callables, modes=0.4, mode=math.log(1.7)),
        ),
        Condition(
            "two in five servers 1.7 times slower",
            all_of(callables, modes=0.4, mode=math.log(1.7), modes_of_servers=True),
        ),
    ]


@dataclass(frozen=True)
class Row:
    """What came of a condition; shares."""

    condition: str
    suites_red: float  # unchanged
    suites_improved: float  # unchanged
    red: Sequence[float]  # of benchmarks, by ``CHANGES``
    undecided: float  # of unchanged benchmarks, "extend the baseline" included
    extend: Sequence[float]  # of benchmarks, by ``CHANGES``
    processes: float  # mean of unchanged benchmarks


def simulate(
    conditions: Sequence[Condition],
    suites: int,
    seed: int = 0,
    changes: Sequence[float] = CHANGES,
) -> list[Row]:
    """Return a row for each condition, from so many suites; the first of ``changes`` is 0."""
    return [
        _row(condition, suites, _random(seed, condition.name), changes) for condition in conditions
    ]


def _random(seed: int, name: str) -> np.random.Generator:
    """Return numbers of a condition's own, whatever others there are."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _row(
    condition: Condition, suites: int, rng: np.random.Generator, changes: Sequence[float]
) -> Row:
    found = [_suite(condition, rng, changes) for _ in range(suites)]
    verdicts = np.array(
        [
            [[str(decision.judgement.verdict) for decision in one] for one in suite]
            for suite in found
        ]
    )
    red, extend = verdicts == Verdict.REGRESSION, verdicts == Verdict.EXTEND
    undecided = extend | (verdicts == Verdict.INCONCLUSIVE)
    improved = verdicts == Verdict.IMPROVED
    return Row(
        condition.name,
        float(red[:, :, 0].any(axis=1).mean()),
        float(improved[:, :, 0].any(axis=1).mean()),
        [float(share) for share in red.mean(axis=(0, 1))],
        float(undecided[:, :, 0].mean()),
        [float(share) for share in extend.mean(axis=(0, 1))],
        float(np.mean([len(one[0].processes) for suite in found for one in suite])),
    )


def _suite(
    condition: Condition, rng: np.random.Generator, changes: Sequence[float]
) -> list[list[Decision[int]]]:
    """Return what the gate decides of each benchmark with each of ``changes``, on the same noise."""
    noises = condition.noises
    if condition.paired:
        cases = [_Case(condition, noise) for noise in noises]
    else:
        stored = [stored_sample(condition, noise, rng) for noise in noises]
        hours = [
            None if condition.alone else Hours.of([*stored[:place], *stored[place + 1 :]])
            for place in range(len(stored))
        ]
        cases = [_Case(condition, *parts) for parts in zip(noises, stored, hours, strict=True)]
    seeds = rng.integers(2**63, size=len(cases))
    return [
        [_decision(case, change, int(seed)) for change in changes]
        for case, seed in zip(cases, seeds, strict=True)
    ]


class _Case:
    """One benchmark and its baseline."""

    def __init__(
        self,
        condition: Condition,
        noise: Noise,
        stored: Sample | None = None,
        others: Hours | None = None,
    ) -> None:
        self.condition, self.noise, self.stored, self.others = condition, noise, stored, others
        self.margin = condition.margin
        if self.margin is None and stored is not None:
            self.margin = inference.measured_margin(stored, others)


def _decision(case: _Case, change: float, seed: int) -> Decision[int]:
    condition, stored, margin = case.condition, case.stored, case.margin
    run = Run(
        case.noise,
        np.random.default_rng(seed),
        servers=condition.servers,
        speed=condition.speed_off,
    )
    parts: list[tuple[Array, Array, NDArray[np.int64]]] = []
    size = sequential.PROCESSES

    def measure() -> list[int]:
        parts.append(run.processes(size))
        return list(range((len(parts) - 1) * size, len(parts) * size))

    def judge(numbers: Sequence[int], look: int) -> Judgement:
        first, last = numbers[0] // size, numbers[-1] // size + 1
        values, seconds, servers = (
            np.concatenate([part[column] for part in parts[first:last]]) for column in range(3)
        )
        sample = Sample(values + math.log1p(change), seconds, servers, np.zeros_like(servers))
        looks, subjects = sequential.LOOKS, len(condition.noises)
        if stored is None:
            return inference.judge_paired(
                sample, margin=margin or 0.0, look=look, looks=looks, subjects=subjects
            )
        return inference.judge(
            sample,
            stored,
            margin=margin,
            look=look,
            looks=looks,
            subjects=subjects,
            others=case.others,
        )

    return sequential.decide(measure, judge, renew=run.renew)


def stored_sample(condition: Condition, noise: Noise, rng: np.random.Generator) -> Sample:
    """Return a baseline."""
    runs = [
        Run(noise, rng, servers=condition.servers).processes(PER_RECORDING)
        for _ in range(condition.recordings)
    ]
    values, seconds, servers = (np.concatenate([run[place] for run in runs]) for place in range(3))
    recordings = np.repeat(np.arange(condition.recordings), PER_RECORDING)
    return Sample(values, seconds, servers + condition.servers * recordings, recordings)


def extensions_until_refused(
    noises: Sequence[Noise], share: float, series: int, seed: int = 0
) -> list[int | None]:
    """Return at which extension of a baseline each series was refused as a creep; None where it never was.

    Each of ``EXTENSIONS`` extensions is slower by ``share`` than the one before; a baseline keeps its oldest
    recording and the newest, ``KEPT`` together.
    """
    rng = _random(seed, f"creep {share}")
    return [_refused(noise, share, rng) for _ in range(series) for noise in noises]


def _refused(noise: Noise, share: float, rng: np.random.Generator) -> int | None:
    kept: list[tuple[Array, Array, NDArray[np.int64]]] = []
    for number in range(EXTENSIONS + 1):
        values, seconds, servers = Run(noise, rng, servers=sequential.SERVERS).processes(
            PER_RECORDING
        )
        kept.append(
            (
                values + number * math.log1p(share),
                seconds,
                servers + number * sequential.SERVERS,
            )
        )
        if len(kept) > KEPT:
            del kept[1]
        columns = [np.concatenate([part[place] for part in kept]) for place in range(3)]
        recordings = np.repeat(np.arange(len(kept)), PER_RECORDING)
        if inference.crept(Sample(columns[0], columns[1], columns[2], recordings)) is not None:
            return number
    return None


def table(rows: Sequence[Row]) -> Table:
    """Return a row for each condition."""
    changes = " / ".join(f"+{100 * change:.0f}" for change in CHANGES[1:]) + " %"
    heads = ("suites red, unchanged", "improved", f"benchmark red at {changes}", "extend",
             "undecided, unchanged", "processes, unchanged")  # fmt: skip
    return Table(
        columns("condition", *heads),
        [
            blocks.Row(
                row.condition,
                f"{row.suites_red:.1%}",
                f"{row.suites_improved:.1%}",
                _shares(row.red),
                _shares(row.extend),
                f"{row.undecided:.0%}",
                f"{row.processes:.1f}",
            )
            for row in rows
        ],
    )


def _shares(shares: Sequence[float]) -> str:
    return " / ".join(f"{100 * share:.0f}" for share in shares[1:]) + " %"
