"""Suites that nobody had to wait for: how often the gate's rule is wrong, by the kind of noise.

A generator of log-ratios with the effects that were met on real machines feeds the gate's own functions:
``conditioning``, ``inference`` and ``sequential.decide``. Nothing is measured and nothing depends on the machine
that this runs on. The same noise is judged unchanged and with each slow-down added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from perfsuite.gate import inference, sequential
from perfsuite.gate.inference import Judgement, Sample, Verdict
from perfsuite.gate.sequential import Decision

if TYPE_CHECKING:
    from perfsuite.gate.baselines import Entry

CHANGES = (0.0, 0.03, 0.05, 0.10)  # shares by which a benchmark is slower
PER_RECORDING = 36  # processes
_IN_COMMON = 24  # consecutive processes of what is stored
_REFERENCE_S = 5e-3  # at the machine's usual speed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """The noise of one benchmark. Spreads are standard deviations of the logarithm.

    ``recorded`` holds residuals and log speeds of real processes, from which processes are drawn with replacement;
    without it they are normal.
    """

    process: float = 0.0
    server: float = 0.0
    hour: float = 0.0  # of a recording, or a run
    drift: float = 0.0  # within a run: first-order autoregressive
    memory: float = 6.0  # processes after which a drift has lost two thirds
    outliers: float = 0.0  # share of processes that are off by up to ``outlier``
    outlier: float = 0.5
    modes: float = 0.0  # share of processes, or of servers, in the slower of two modes
    mode: float = 0.0  # their distance
    modes_of_servers: bool = False
    slope: float = 0.0  # of the log-ratio over the log of the reference's seconds
    speed: float = 0.02  # of the reference's seconds between processes
    speed_hours: float = 0.0  # between hours
    recorded: tuple[Array, Array] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, entry: Entry, **stated: float) -> Noise:
        """Return that of a stored benchmark, with what is stated besides."""
        sample = Sample.of([recording.processes for recording in entry.recordings])
        log_s = np.log(sample.reference_s)
        slope = sample.slope.value
        rest = sample.log_ratios - slope * log_s
        # What consecutive processes have in common is stated as hours and drift.
        for first in range(0, len(rest), _IN_COMMON):
            part = rest[first : first + _IN_COMMON]
            part -= stats.trim_mean(part, inference.TRIM)
        recorded = (rest, log_s - np.median(log_s))
        return cls(slope=slope, recorded=recorded, **stated)


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
        if noise.recorded is None:
            rest, log_s = rng.normal(0, noise.process, count), rng.normal(0, noise.speed, count)
        else:
            drawn = rng.integers(len(noise.recorded[0]), size=count)
            rest, log_s = noise.recorded[0][drawn], noise.recorded[1][drawn]
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


def simulate(conditions: Sequence[Condition], suites: int, seed: int = 0) -> list[Row]:
    """Return a row for each condition, from so many suites."""
    return [_row(condition, suites, np.random.default_rng([seed, number])) for number, condition in enumerate(conditions)]


def _row(condition: Condition, suites: int, rng: np.random.Generator) -> Row:
    subjects = len(condition.noises)
    found = [
        [_decisions(condition, noise, rng) for noise in condition.noises] for _ in range(suites)
    ]
    verdicts = np.array(
        [[[decision.judgement.verdict for decision in one] for one in suite] for suite in found]
    ).reshape(suites, subjects, len(CHANGES))
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


def _decisions(
    condition: Condition, noise: Noise, rng: np.random.Generator
) -> list[Decision[int]]:
    """Return what the gate decides of one benchmark with each of ``CHANGES``, on the same noise."""
    stored = None if condition.paired else stored_sample(condition, noise, rng)
    margin = condition.margin
    if margin is None and stored is not None:
        margin = inference.measured_margin(stored)
    seed = int(rng.integers(2**63))
    return [_decision(condition, noise, stored, margin, change, seed) for change in CHANGES]


def _decision(
    condition: Condition,
    noise: Noise,
    stored: Sample | None,
    margin: float | None,
    change: float,
    seed: int,
) -> Decision[int]:
    run = Run(
        noise,
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
        looks = {"look": look, "looks": sequential.LOOKS, "subjects": len(condition.noises)}
        if stored is None:
            return inference.judge_paired(sample, margin=margin or 0.0, **looks)
        return inference.judge(sample, stored, margin=margin, **looks)

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


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    changes = " / ".join(f"+{change:.0%}" for change in CHANGES[1:])
    lines = [
        f"| condition | suites red, unchanged | improved | benchmark red at {changes} | "
        "of these extend | undecided, unchanged | processes, unchanged |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        red, extend = (
            " / ".join(f"{100 * share:.0f}" for share in shares[1:]) + " %"
            for shares in (row.red, row.extend)
        )
        lines.append(
            f"| {row.condition} | {row.suites_red:.1%} | {row.suites_improved:.1%} | {red} | "
            f"{extend} | {row.undecided:.0%} | {row.processes:.1f} |"
        )
    return "\n".join(lines)
