"""A change and its interval where recordings, servers and processes all vary: a linear mixed model.

Processes that one server forked share its layout of memory and its hash seed; all processes of one recording
share the hour in which they were measured. So a log-ratio is a sum of a level, and of random effects of its
recording, its server and itself (Searle, Casella and McCulloch, Variance Components, 1992), whose variances
are estimated by analysis of variance.

The spread between recordings is the difficult one. A run is one recording, and however many processes it has,
they share its hour; a baseline that was recorded once says nothing of how hours differ. So the variance
between recordings has a t quantile of as few degrees of freedom as it rests on: this benchmark's recordings,
and to a part those of the machine's other benchmarks. Where they are too few, hours are assumed to differ by
``ASSUMED_SD``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perfsuite import distributions
from perfsuite.gate import conditioning
from perfsuite.gate.sample import FEWEST, Array, Group, Sample

RECORDINGS = 4  # that say by how much hours differ, of this benchmark and as many as others lend
ASSUMED_SD = 0.03  # of the log-ratio between recordings, where they do not say
LEAST_SD = 0.0017  # the same, known before any recording, worth one
MOST_OF_OTHERS = 4.0  # recordings, at most, that other benchmarks lend
_LEAST_WEIGHT = 1e-9  # of a stored process, so that there are always some


@dataclass(frozen=True)
class Spread:
    """Variances of processes of one server, and of servers, with what they rest on."""

    squares: tuple[float, float]  # mean squares: within servers, between servers
    freedom: tuple[float, float]
    per_server: float

    @classmethod
    def of(cls, *groups: Group) -> Spread:
        """Return what these groups say together."""
        sums = [sum(group.squares[place] for group in groups) for place in (0, 1)]
        freedom = [sum(group.freedom[place] for group in groups) for place in (0, 1)]
        squares = [total / max(free, 1e-9) for total, free in zip(sums, freedom, strict=True)]
        per_server = sum(group.per_server for group in groups) / max(freedom[1], 1e-9)
        if freedom[0] <= 0 or freedom[1] <= 0 or squares[1] <= squares[0]:  # servers are alike
            pooled = sum(sums) / max(sum(freedom), 1e-9)
            return cls((pooled, pooled), (sum(freedom) / 2, sum(freedom) / 2), max(1.0, per_server))
        return cls((squares[0], squares[1]), (freedom[0], freedom[1]), max(1.0, per_server))

    @property
    def processes(self) -> float:
        """The variance of processes of one server."""
        return self.squares[0]

    @property
    def servers(self) -> float:
        """The variance of servers."""
        return (self.squares[1] - self.squares[0]) / self.per_server

    def of_sum(self, processes: float, servers: float) -> tuple[float, float]:
        """Return variance and degrees of freedom (Satterthwaite, Biometrics 2, 1946) of a weighted sum.

        ``processes`` and ``servers``: the sums of their squared weights.
        """
        share = servers / self.per_server
        parts = (self.squares[0] * (processes - share), self.squares[1] * share)
        if self.squares[0] == self.squares[1]:
            return self.squares[0] * processes, sum(self.freedom)
        variance = sum(parts)
        lost = sum(part**2 / free for part, free in zip(parts, self.freedom, strict=True))
        return variance, variance**2 / lost if lost else sum(self.freedom)


@dataclass(frozen=True)
class Change:
    """A change of the logarithm, and the standard errors that make its interval."""

    value: float
    error: float  # of processes and servers
    freedom: float
    hours_error: float = 0.0
    hours_freedom: float = 1.0
    speed_error: float = 0.0  # of what a slope says of speeds that were not stored

    def within(self, level: float) -> float:
        """Return half the width of the interval that knows no hours, one-sided at ``level``."""
        return t_quantile(level, self.freedom) * self.error

    def half(self, level: float, hours_level: float) -> float:
        """Return half the width of the whole interval.

        Widths of independent parts are added as their squares, each with the quantile of its own degrees of
        freedom (Zou and Donner, Construction of Confidence Limits about Effect Measures, Statistics in
        Medicine 27, 2008): one that follows from one recording must not become short beside one from many.
        """
        return math.hypot(
            self.within(level),
            t_quantile(hours_level, self.hours_freedom) * self.hours_error,
            t_quantile(hours_level, math.inf) * self.speed_error,
        )


@dataclass(frozen=True)
class Hours:
    """By how much recordings differ: the variance of the log-ratio, and its degrees of freedom."""

    variance: float
    freedom: float

    @classmethod
    def of(cls, stored: Sequence[Sample]) -> Hours:
        """Return what these benchmarks of one machine say together."""
        parts = [
            excess_of(one.counted.levelled, Spread.of(one.counted.levelled))
            for one in stored
            if len(one.counted) >= FEWEST
        ]
        freedom = sum(part.freedom for part in parts)
        total = sum(part.freedom * part.variance for part in parts)
        return cls(max(0.0, total / freedom) if freedom else 0.0, freedom)


def change_of(
    current: Sample,
    stored: Sample,
    kernel: Array | None = None,
    *,
    others: Hours | None = None,
    assumed_sd: float = ASSUMED_SD,
) -> Change:
    """Return by how much ``current`` takes longer than ``stored``; both have ``FEWEST`` processes or more.

    ``kernel``: weights of the stored processes for each current one; None: by their speeds.
    """
    if kernel is None:
        kernel = conditioning.kernel_weights(current.reference_s, stored.reference_s)
    kernel = kernel + _LEAST_WEIGHT
    weights = (1 / kernel.sum(axis=1)) @ kernel / len(kernel)
    base, now = stored.levelled, Group.of(current, stored.slope.value)
    spread = Spread.of(base, now)
    hours = hours_of(base, spread, others, assumed_sd)
    return _difference(now, base, weights, spread, hours, stored.slope.sd)


def unconditioned(current: Sample, stored: Sample, least: float) -> Change | None:
    """Return the change whatever the speeds; None where it is not ``least``, or rests on too few processes."""
    if len(current) < FEWEST or current.log_ratios.max() - stored.raw.values.mean() <= least:
        return None
    equal, base, now = np.full(len(stored), 1 / len(stored)), stored.raw, Group.of(current, 0.0)
    spread = Spread.of(base, now)
    return _difference(now, base, equal, spread, Hours(ASSUMED_SD**2, math.inf), 0.0)


def _difference(
    now: Group, base: Group, weights: Array, spread: Spread, hours: Hours, slope_sd: float
) -> Change:
    """``weights``: of the stored processes, with the sum 1."""
    count = len(now.values)
    now_servers = np.bincount(now.server) / count
    base_servers = np.bincount(base.server, weights)
    of_processes = 1 / count + float(weights @ weights)
    of_servers = float(now_servers @ now_servers)
    variance, freedom = spread.of_sum(of_processes, of_servers + float(base_servers @ base_servers))
    # A run that varies more than what is stored is judged by its own variance.
    own = sum(now.squares) / (count - 1)
    usual = spread.processes + spread.servers
    if own > usual:
        variance += (own - usual) * of_servers
    shares = np.bincount(base.recording, weights)
    apart = float(now.log_s.sum() / count - weights @ base.log_s)
    return Change(
        float(now.values.sum() / count - weights @ base.values),
        math.sqrt(variance),
        max(freedom, 1.0),
        math.sqrt(hours.variance * (1 + float(shares @ shares))),
        hours.freedom,
        abs(apart) * slope_sd,
    )


def hours_of(base: Group, spread: Spread, others: Hours | None, assumed_sd: float = 0.0) -> Hours:
    """Return the variance between recordings, from this benchmark, others of the machine, and what is known before.

    They are joined by their degrees of freedom, as a scaled inverse chi-squared prior of a normal variance
    is with a measured one (Gelman et al., Bayesian Data Analysis, 3rd edition, section 2.6): what is known
    before is ``LEAST_SD``, worth one; others count up to ``MOST_OF_OTHERS``, because benchmarks differ. Where all
    that is less than ``RECORDINGS`` it is at least ``assumed_sd``, which is not in doubt.
    """
    own = excess_of(base, spread)
    lent = min(others.freedom, MOST_OF_OTHERS) if others else 0.0
    freedom = 1.0 + own.freedom + lent
    squares = LEAST_SD**2 + own.freedom * max(0.0, own.variance)
    if others:
        squares += lent * others.variance
    variance = squares / freedom
    if freedom < RECORDINGS:
        return Hours(max(variance, assumed_sd**2), math.inf)
    return Hours(variance, freedom)


def excess_of(base: Group, spread: Spread) -> Hours:
    """Return what the recordings' means differ by beyond what processes and servers explain; may be negative."""
    freedom = len(base.means) - 1
    if not freedom:
        return Hours(0.0, 0.0)
    explained = spread.processes / base.counts + spread.servers * base.server_squares
    return Hours(float(base.means.var(ddof=1) - explained.mean()), float(freedom))


def mean_of(group: Group) -> Change:
    """Return what is measured without a baseline: the mean, and its errors of processes and servers."""
    spread = Spread.of(group)
    count = len(group.values)
    servers = np.bincount(group.server) / count
    variance, freedom = spread.of_sum(1 / count, float(servers @ servers))
    return Change(float(group.values.mean()), math.sqrt(variance), max(freedom, 1.0))


def t_quantile(level: float, freedom: float) -> float:
    """Return the one-sided quantile of Student's t."""
    return -_t_quantile(level, round(freedom, 2))


_t_quantile = lru_cache(maxsize=1 << 16)(distributions.t_quantile)
