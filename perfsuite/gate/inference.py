"""From samples to a verdict, as pure functions over arrays: how the samples were made is unknown here.

The unit is the process: one log-ratio each, of the subject's time over the reference's. Processes that one
server forked share its layout of memory and its hash seed; all processes of one recording share the hour in
which they were measured. So a log-ratio is a sum of a level, and of random effects of its recording, its
server and itself, and the interval of a change has the variances of all three (a linear mixed model: Searle,
Casella and McCulloch, Variance Components, 1992), estimated by analysis of variance.

The spread between recordings is the difficult one. A run is one recording, and however many processes it has,
they share its hour; a baseline that was recorded once says nothing of how hours differ. So the variance
between recordings starts from a stated prior (``PRIOR_SD``, worth ``PRIOR_WEIGHT`` recordings) that recordings
replace, and has a t quantile of as few degrees of freedom as it rests on. With one recording only gross
changes are red; where the processes alone would have said red, the verdict is "extend the baseline".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsuite.gate import conditioning
from perfsuite.gate.boundaries import nominal_levels
from perfsuite.gate.process import Process
from perfsuite.statistics import Estimate

FEWEST = 3  # processes: fewer say nothing of the spread between them
CONFIDENCE = 0.95  # of the interval that is shown, two-sided
PASS_CONFIDENCE = 0.9  # that a change lies below the margin
SUITE_ERROR = 0.1  # chance that any red of a suite is wrong where all its subjects lie at the margin
HOURS_ERROR = 0.03
FEWEST_SUBJECTS = 4
TRIM = 0.15  # share of a recording's processes that may be far off at either end
LEAST_MARGIN = 0.017
RECORDINGS = 4  # fewer do not say by how much hours differ
ASSUMED_SD = 0.03  # of the log-ratio between recordings, where they do not say
LEAST_SD = 0.0017  # the same, where they do
GROSS = 0.25  # what no change of the machine's speed and no hour explains
_MARGIN_PROCESSES = 36  # of the run that a measured margin is made for
_RESOLUTION = 2.0  # standard errors of a run within an hour that a measured margin has at least
_HOURS = 2.5  # standard deviations of hours that it has at least

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


class Verdict(StrEnum):
    """What the samples say of one benchmark."""

    REGRESSION = "regression"
    PASS = "pass"  # noqa: S105 - no password
    IMPROVED = "improved"
    INCONCLUSIVE = "inconclusive"
    EXTEND = "extend-baseline"  # the stored recordings cannot support a red verdict


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on. ``change`` is a ratio, current over stored: 1.10 is 10 % slower."""

    verdict: Verdict
    change: Estimate
    margin: float  # as a share: 0.02 is 2 %
    processes: int  # that were judged
    reason: str


@dataclass(frozen=True)
class Sample:
    """Processes of one benchmark, all arrays (processes,)."""

    log_ratios: Array
    reference_s: Array
    servers: Integers  # equal numbers within a recording: forked from one server
    recordings: Integers  # in order of time
    quiet: NDArray[np.bool_] | None = None  # with rounds that count; None: all

    @classmethod
    def of(cls, recordings: Sequence[Sequence[Process]]) -> Sample:
        """Return what the verdict sees of these recordings, oldest first.

        A process that does not say its server counts as one of a server of its own.
        """
        every = [(number, one) for number, part in enumerate(recordings) for one in part]
        known: dict[tuple[int, str], int] = {}
        servers = [
            known.setdefault((number, one.server or f"#{place}"), len(known))
            for place, (number, one) in enumerate(every)
        ]
        return cls(
            np.array([one.log_ratio for _, one in every], dtype=np.float64),
            np.array([one.reference_s for _, one in every], dtype=np.float64),
            np.array(servers, dtype=np.int64),
            np.array([number for number, _ in every], dtype=np.int64),
            np.array([one.rounds > 0 for _, one in every], dtype=np.bool_),
        )

    def __len__(self) -> int:
        return len(self.log_ratios)

    def where(self, chosen: NDArray[np.bool_]) -> Sample:
        """Return the chosen processes."""
        return Sample(
            self.log_ratios[chosen],
            self.reference_s[chosen],
            self.servers[chosen],
            self.recordings[chosen],
            None if self.quiet is None else self.quiet[chosen],
        )

    @cached_property
    def counted(self) -> Sample:
        """The processes with rounds that count."""
        return self if self.quiet is None or self.quiet.all() else self.where(self.quiet)

    @cached_property
    def slope(self) -> conditioning.Slope:
        """Of the log-ratio over the log of the reference's seconds."""
        return conditioning.slope(self.log_ratios, np.log(self.reference_s), self.recordings)

    @cached_property
    def levelled(self) -> Group:
        """Its values without the slope, and their spread."""
        return Group.of(self, self.slope.value)


@dataclass(frozen=True)
class Group:
    """Robust values of processes: their mean is the trimmed mean of each recording, their variance its variance.

    A trimmed mean varies as the mean of winsorized values does, held apart by 1 / (share that is kept) (Tukey
    and McLaughlin, Sankhya A 25, 1963; Yuen, Biometrika 61, 1974): these are the values here, so that
    what is known of means holds for them. ``squares`` and ``freedom`` are within servers, and between servers
    within recordings.
    """

    values: Array
    log_s: Array
    servers: Integers
    recordings: Integers
    squares: tuple[float, float]
    freedom: tuple[float, float]
    per_server: float  # processes, as the analysis of variance weighs them

    @classmethod
    def of(cls, sample: Sample, slope: float) -> Group:
        """Return ``sample`` without ``slope`` times the log of the reference's seconds."""
        log_s = np.log(sample.reference_s)
        values = sample.log_ratios - slope * log_s
        bounds = np.flatnonzero(np.diff(sample.recordings)) + 1
        within, between = [0.0, 0.0], [0.0, 0.0]
        per_server, parts = 0.0, []
        for part, servers in zip(
            np.split(values, bounds), np.split(sample.servers, bounds), strict=True
        ):
            robust, kept = _robust(part)
            parts.append(robust)
            _, server, counts = np.unique(servers, return_inverse=True, return_counts=True)
            means = np.bincount(server, robust) / counts
            away = robust - means[server]
            apart = means - robust.mean()
            within[0] += float(away @ away)
            within[1] += kept * (len(part) - len(counts))
            between[0] += float(counts @ apart**2)
            between[1] += kept * (len(counts) - 1)
            per_server += kept * (len(part) - float(counts @ counts) / len(part))
        return cls(
            np.concatenate(parts),
            log_s,
            sample.servers,
            sample.recordings,
            (within[0], between[0]),
            (within[1], between[1]),
            per_server,
        )


def _robust(values: Array) -> tuple[Array, float]:
    """Return values with the mean and variance of the trimmed mean, and the share that is kept."""
    count = len(values)
    trimmed = int(TRIM * count)
    if not trimmed:
        return values, 1.0
    ordered = np.sort(values)
    kept = count - 2 * trimmed
    winsorized = np.clip(values, ordered[trimmed], ordered[count - trimmed - 1])
    scale = math.sqrt(count * (count - 1) / (kept * (kept - 1)))
    mean = float(ordered[trimmed : count - trimmed].mean())
    return mean + scale * (winsorized - winsorized.mean()), kept / count


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
        return _t(level, self.freedom) * self.error

    def half(self, level: float, hours_level: float) -> float:
        """Return half the width of the whole interval.

        Widths of independent parts are added as their squares, each with the quantile of its own degrees of
        freedom (Zou and Donner, Construction of Confidence Limits about Effect Measures, Statistics in
        Medicine 27, 2008): one that follows from one recording must not become short beside one from many.
        """
        return math.hypot(
            self.within(level),
            _t(hours_level, self.hours_freedom) * self.hours_error,
            _t(hours_level, math.inf) * self.speed_error,
        )


def judge(
    current: Sample,
    stored: Sample,
    *,
    margin: float | None,
    look: int = 1,
    looks: int = 1,
    subjects: int = 1,
) -> Judgement:
    """Return the verdict on ``current`` against ``stored``.

    Args:
        current: All processes measured so far.
        stored: The baseline's.
        margin: Share by which the subject may be slower; None: ``measured_margin(stored)``.
        look: Which look this is, from 1.
        looks: How many there are at most.
        subjects: Benchmarks that are judged in the run.

    Too few processes are inconclusive, never an error and never another verdict.
    """
    base = stored.counted
    if margin is None:
        margin = measured_margin(stored)
    if len(base) < FEWEST:
        return _unknown(len(base), "stored", margin)
    quiet = current.counted
    alike = quiet.where(conditioning.supported(quiet.reference_s, base.reference_s))
    level = alarm_level(look, looks, subjects)
    hours_level = HOURS_ERROR / max(subjects, FEWEST_SUBJECTS)
    if len(alike) < FEWEST:
        judgement = _unknown(len(alike), "of a speed that is stored", margin)
    else:
        judgement = _verdict(
            change_of(alike, base), margin, len(alike), level, hours_level, last=look >= looks
        )
    if judgement.verdict in (Verdict.INCONCLUSIVE, Verdict.EXTEND) and len(current) >= FEWEST:
        gross = _unconditioned(current, base)
        if gross.value - gross.within(level) > math.log1p(max(GROSS, margin)):
            return Judgement(
                Verdict.REGRESSION,
                _estimate(gross),
                max(GROSS, margin),
                len(current),
                "the interval lies above what any speed of the machine explains",
            )
    return judgement


def alarm_level(look: int, looks: int, subjects: int) -> float:
    """Return the one-sided level of an alarm at this look, where so many subjects are judged.

    A subject at its margin is red by chance only if fresh processes alone lie above the margin as well, which half
    of them do: hence twice the share of ``SUITE_ERROR`` that Bonferroni's inequality leaves to each.
    """
    alpha = 2 * SUITE_ERROR / max(subjects, FEWEST_SUBJECTS)
    return nominal_levels(looks, alpha)[min(look, looks) - 1]


def change_of(current: Sample, stored: Sample) -> Change:
    """Return by how much ``current`` takes longer than ``stored``; both have ``FEWEST`` processes or more."""
    slope = stored.slope
    base, now = stored.levelled, Group.of(current, slope.value)
    kernel = conditioning.kernel_weights(current.reference_s, stored.reference_s)
    kernel += 1e-9
    weights = (kernel / kernel.sum(axis=1, keepdims=True)).mean(axis=0)
    return _difference(now, base, weights, slope.sd)


def _unconditioned(current: Sample, stored: Sample) -> Change:
    equal = np.full(len(stored), 1 / len(stored))
    return _difference(Group.of(current, 0.0), Group.of(stored, 0.0), equal, 0.0)


def _difference(now: Group, base: Group, weights: Array, slope_sd: float) -> Change:
    """``weights``: of the stored processes, with the sum 1."""
    spread = Spread.of(base, now)
    count = len(now.values)
    value = float(now.values.mean() - weights @ base.values)
    servers = np.bincount(np.unique(now.servers, return_inverse=True)[1])
    now_squares = 1 / count, float(servers @ servers) / count**2
    of_server = np.bincount(base.servers - base.servers.min(), weights)
    base_squares = float(weights @ weights), float(of_server @ of_server)
    variance, freedom = spread.of_sum(
        now_squares[0] + base_squares[0], now_squares[1] + base_squares[1]
    )
    # A run that varies more than what is stored is judged by its own variance.
    own = now.values.var(ddof=1)
    usual = spread.processes + spread.servers
    if own > usual:
        variance += (own - usual) * now_squares[1]
    hours, hours_freedom = hours_variance(base, spread)
    if hours_freedom < RECORDINGS:
        hours, hours_freedom = max(hours, ASSUMED_SD**2), math.inf
    shares = np.bincount(base.recordings - base.recordings.min(), weights)
    apart = float(now.log_s.mean() - weights @ base.log_s)
    return Change(
        value,
        math.sqrt(variance),
        max(freedom, 1.0),
        math.sqrt(hours * (1 + float(shares @ shares))),
        hours_freedom,
        abs(apart) * slope_sd,
    )


def hours_variance(base: Group, spread: Spread) -> tuple[float, float]:
    """Return the variance between recordings, and its degrees of freedom.

    The measured one is what the recordings' means differ by beyond what processes and servers explain, joined
    with ``LEAST_SD``, which counts as one recording more, by degrees of freedom: as a scaled inverse
    chi-squared prior of a normal variance is (Gelman et al., Bayesian Data Analysis, 3rd edition, section 2.6).
    """
    numbers, place, counts = np.unique(base.recordings, return_inverse=True, return_counts=True)
    freedom = len(numbers) - 1
    excess = 0.0
    if freedom:
        means = np.bincount(place, base.values) / counts
        _, first, servers = np.unique(base.servers, return_index=True, return_counts=True)
        squared = np.bincount(place[first], servers.astype(np.float64) ** 2) / counts**2
        explained = spread.processes / counts + spread.servers * squared
        excess = max(0.0, float(means.var(ddof=1) - explained.mean()))
    return (LEAST_SD**2 + freedom * excess) / (1 + freedom), 1.0 + freedom


def measured_margin(stored: Sample) -> float:
    """Return the margin that the noise of what is stored asks for, as a share; at least ``LEAST_MARGIN``.

    It is some standard errors of a whole run in one hour, so that an unchanged subject can pass, and some standard
    deviations of hours, as far as they have been seen to differ.
    """
    base = stored.counted
    if len(base) < FEWEST:
        return LEAST_MARGIN
    group = base.levelled
    spread = Spread.of(group)
    run = (spread.processes + spread.servers) / _MARGIN_PROCESSES
    hours, _ = hours_variance(group, spread)
    return max(
        LEAST_MARGIN,
        math.expm1(math.hypot(_RESOLUTION * math.sqrt(run), _HOURS * math.sqrt(hours))),
    )


def judge_paired(
    current: Sample, *, margin: float, look: int = 1, looks: int = 1, subjects: int = 1
) -> Judgement:
    """Return the verdict on log-ratios of head over base, measured in turn: unchanged is 0.

    Both sides shared the hour and the machine's speed, so that neither has a variance here. A server is a pair
    of servers, one of each side.
    """
    sample = current.counted if len(current.counted) >= FEWEST else current
    if len(sample) < FEWEST:
        return _unknown(len(sample), "measured", margin)
    level = alarm_level(look, looks, subjects)
    change = _mean(Group.of(sample, 0.0))
    return _verdict(change, margin, len(sample), level, level, last=look >= looks)


def judge_limit(
    values_s: ArrayLike, limit_s: float, *, look: int = 1, looks: int = 1, subjects: int = 1
) -> Judgement:
    """Return whether seconds, one of each process, lie above a limit; ``change`` is their ratio to it.

    Raises:
        ValueError: for seconds or a limit that are not positive.
    """
    seconds = np.asarray(values_s, dtype=np.float64)
    if not limit_s > 0 or not (seconds > 0).all():
        raise ValueError("seconds and their limit must be positive")
    if len(seconds) < FEWEST:
        return _unknown(len(seconds), "measured", 0.0)
    numbers = np.arange(len(seconds), dtype=np.int64)
    sample = Sample(np.log(seconds / limit_s), np.ones(len(seconds)), numbers, 0 * numbers)
    level = alarm_level(look, looks, subjects)
    judgement = _verdict(_mean(Group.of(sample, 0.0)), 0.0, len(seconds), level, level, last=True)
    return judgement


def _mean(group: Group) -> Change:
    spread = Spread.of(group)
    count = len(group.values)
    servers = np.unique(group.servers, return_counts=True)[1]
    variance, freedom = spread.of_sum(1 / count, float(servers @ servers) / count**2)
    return Change(float(group.values.mean()), math.sqrt(variance), max(freedom, 1.0))


def needed_for(quantile: float) -> int:
    """Return how many calls show a quantile: with so many, one lies beyond it with ``CONFIDENCE``.

    (Wilks, Determination of Sample Sizes for Setting Tolerance Limits, 1941: 59 for 0.95, 299 for 0.99.)

    Raises:
        ValueError: for a quantile that is not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"{quantile}: a quantile lies between 0 and 1")
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(max(quantile, 1 - quantile)))


def location(sample: Sample) -> float:
    """Return the log-ratio that the sample stands for: the trimmed mean, of each recording, their mean."""
    group = Group.of(sample.counted if len(sample.counted) else sample, 0.0)
    _, place, counts = np.unique(group.recordings, return_inverse=True, return_counts=True)
    return float((np.bincount(place, group.values) / counts).mean())


def _verdict(
    change: Change, margin: float, processes: int, level: float, hours_level: float, *, last: bool
) -> Judgement:
    allowed = math.log1p(margin)
    half, within = change.half(level, hours_level), change.within(level)
    # However many processes come, hours stay.
    lasting = _t(hours_level, change.hours_freedom) * change.hours_error
    doubt = 1 - PASS_CONFIDENCE
    bound = change.value + math.hypot(
        change.within(doubt), _t(doubt, math.inf) * change.speed_error
    )
    if change.value - half > allowed:
        verdict, reason = Verdict.REGRESSION, "the interval lies above the margin"
    elif change.value + half < -allowed:
        verdict, reason = Verdict.IMPROVED, "the interval lies below the margin"
    elif bound < allowed:
        verdict, reason = Verdict.PASS, f"below the margin with {PASS_CONFIDENCE:.0%} confidence"
    elif change.value - within > allowed and (last or change.value - lasting <= allowed):
        verdict = Verdict.EXTEND
        reason = "above the margin, but by no more than recordings of other hours might differ"
    else:
        verdict, reason = Verdict.INCONCLUSIVE, "the interval reaches across the margin"
    return Judgement(verdict, _estimate(change), margin, processes, reason)


def _estimate(change: Change) -> Estimate:
    half = change.half((1 - CONFIDENCE) / 2, (1 - CONFIDENCE) / 2)
    return Estimate(*(math.exp(min(change.value + end, 700.0)) for end in (0.0, -half, half)))


def _unknown(count: int, which: str, margin: float) -> Judgement:
    reason = f"{count} processes {which}, {FEWEST} are the least"
    return Judgement(
        Verdict.INCONCLUSIVE, Estimate(math.nan, 0.0, math.inf), margin, count, reason
    )


def _t(level: float, freedom: float) -> float:
    """Return the one-sided quantile of Student's t."""
    from scipy import special

    if freedom > 1e6:
        return -float(special.ndtri(level))
    return -float(special.stdtrit(freedom, level))
