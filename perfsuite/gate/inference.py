"""From samples to a verdict, as pure functions over arrays: how the samples were made is unknown here.

Red and improved need an interval beyond the margin that knows the noise of processes, of servers and of hours.
Where the processes alone would have said red, the verdict is "extend the baseline". A pass knows no hours: it
says that this hour's processes lie below the margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from perfsuite.gate import conditioning
from perfsuite.gate.boundaries import nominal_levels
from perfsuite.gate.mixed_model import (
    ASSUMED_SD,
    LEAST_SD,
    RECORDINGS,
    Change,
    Hours,
    Spread,
    change_of,
    hours_of,
    mean_of,
    t_quantile,
    unconditioned,
)
from perfsuite.gate.sample import FEWEST, Sample
from perfsuite.statistics import Estimate

__all__ = [
    "FEWEST",
    "Hours",
    "Judgement",
    "Sample",
    "Verdict",
    "crept",
    "judge",
    "judge_limit",
    "judge_paired",
    "location",
    "measured_margin",
    "needed_for",
]

CONFIDENCE = 0.9  # of the interval that is shown, two-sided: every red verdict is surer
PASS_CONFIDENCE = 0.9  # that a change lies below the margin
SUITE_ERROR = (
    0.1  # chance that any red of a suite is wrong where all its subjects lie at the margin
)
HOURS_ERROR = 0.016  # the same, as far as hours are to blame: nothing that is measured now helps
FEWEST_SUBJECTS = 4
LEAST_MARGIN = 0.0145
QUANTILE_CONFIDENCE = 0.95  # that a call lies beyond it
GROSS = 0.25  # what no change of the machine's speed and no hour explains
GROSS_DISTURBED = 2.5  # what no others explain either, who take a processor from long calls and not from short ones
_CREEP_LEVEL = 0.005  # one-sided, of each extension
_MARGIN_PROCESSES = 36  # of the run that a measured margin is made for
_RESOLUTION = 2.0  # standard errors of a run within an hour that a measured margin has at least
_HOURS = 1.75  # standard deviations of hours that it has at least


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


def judge(
    current: Sample,
    stored: Sample,
    *,
    margin: float | None,
    look: int = 1,
    looks: int = 1,
    subjects: int = 1,
    others: Hours | None = None,
    assumed_sd: float = ASSUMED_SD,
) -> Judgement:
    """Return the verdict on ``current`` against ``stored``.

    Args:
        current: All processes measured so far.
        stored: The baseline's.
        margin: Share by which the subject may be slower; None: ``measured_margin(stored)``.
        look: Which look this is, from 1.
        looks: How many there are at most.
        subjects: Benchmarks that are judged in the run.
        others: Of the machine's other benchmarks.
        assumed_sd: Of the logarithm between recordings, where they are too few to say; 0 for what hours leave
            alone, such as memory.

    Too few processes are inconclusive, never an error and never another verdict.
    """
    base = stored.counted
    if margin is None:
        margin = measured_margin(stored, others)
    if len(base) < FEWEST:
        return _unknown(len(base), "stored", margin)
    quiet = current.counted
    kernel = conditioning.kernel_weights(quiet.reference_s, base.reference_s)
    known = conditioning.in_support(kernel)
    level = alarm_level(look, looks, subjects)
    if known.sum() < FEWEST:
        which = "of a speed that is stored" if len(quiet) >= FEWEST else "undisturbed"
        judgement = _unknown(int(known.sum()), which, margin)
    else:
        alike = quiet if known.all() else quiet.where(known)
        change = change_of(alike, base, kernel[known], others=others, assumed_sd=assumed_sd)
        hours_level = HOURS_ERROR / max(subjects, FEWEST_SUBJECTS)
        judgement = _verdict(change, margin, len(alike), level, hours_level, last=look >= looks)
    if judgement.verdict in (Verdict.INCONCLUSIVE, Verdict.EXTEND):
        enough = len(quiet) >= FEWEST
        least = max(GROSS if enough else GROSS_DISTURBED, margin)
        gross = unconditioned(quiet if enough else current, base, math.log1p(least))
        if gross is not None:
            judged = len(quiet if enough else current)
            if gross.value - gross.within(level) > math.log1p(least):
                reason = "the interval lies above what any speed of the machine explains"
                return Judgement(Verdict.REGRESSION, _estimate(gross), least, judged, reason)
            if not enough:  # what is known, for whoever confirms a red verdict
                return Judgement(
                    Verdict.INCONCLUSIVE, _estimate(gross), least, judged, judgement.reason
                )
    return judgement


def alarm_level(look: int, looks: int, subjects: int) -> float:
    """Return the one-sided level of an alarm at this look, where so many subjects are judged.

    A subject at its margin is red by chance only if fresh processes alone lie above the margin as well, which half
    of them do: hence twice the share of ``SUITE_ERROR`` that Bonferroni's inequality leaves to each.
    """
    alpha = 2 * SUITE_ERROR / max(subjects, FEWEST_SUBJECTS)
    return nominal_levels(looks, alpha)[min(look, looks) - 1]


def measured_margin(stored: Sample, others: Hours | None = None) -> float:
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
    hours = hours_of(group, spread, others).variance
    return max(
        LEAST_MARGIN,
        math.expm1(math.hypot(_RESOLUTION * math.sqrt(run), _HOURS * math.sqrt(hours))),
    )


def crept(sample: Sample, margin: float = LEAST_MARGIN) -> Estimate | None:
    """Return by which factor the newest recordings are slower than the oldest; None where that may be noise.

    Each of many extensions may be slower by less than anybody would notice. So what is asked is whether the
    recordings, in order of time, lie on a rising line: its rise from the first to the last has a t interval
    from what they differ by around it. Fewer than ``RECORDINGS`` have no spread of their own: there the newest
    is held against the oldest, with ``ASSUMED_SD``.
    """
    base = sample.counted
    if len(base) < FEWEST:
        return None
    group = base.levelled
    count = len(group.means)
    if count < 2:
        return None
    spread = Spread.of(group)
    explained = spread.processes / group.counts + spread.servers * group.server_squares
    if count < RECORDINGS:
        value = float(group.means[-1] - group.means[0])
        variance = 2 * ASSUMED_SD**2 + float(explained[0] + explained[-1])
        half = t_quantile(_CREEP_LEVEL, math.inf) * math.sqrt(variance)
    else:
        order = np.arange(count) - (count - 1) / 2
        squares = float(order @ order)
        slope = float(order @ group.means) / squares
        rest = group.means - group.means.mean() - slope * order
        known = LEAST_SD**2 + float(explained.mean())
        variance = (known + float(rest @ rest)) / (
            count - 1
        )  # count - 2 of the line, and one known
        value = slope * (count - 1)
        half = t_quantile(_CREEP_LEVEL, count - 1) * math.sqrt(variance / squares) * (count - 1)
    if value - half <= math.log1p(margin):
        return None
    return Estimate(*(math.exp(value + end) for end in (0.0, -half, half)))


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
    change = mean_of(sample.raw)
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
    return _verdict(mean_of(sample.raw), 0.0, len(seconds), level, level, last=True)


def needed_for(quantile: float) -> int:
    """Return how many calls show a quantile: with so many, one lies beyond it with ``QUANTILE_CONFIDENCE``.

    (Wilks, Determination of Sample Sizes for Setting Tolerance Limits, 1941: 59 for 0.95, 299 for 0.99.)

    Raises:
        ValueError: for a quantile that is not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"{quantile}: a quantile lies between 0 and 1")
    return math.ceil(math.log(1 - QUANTILE_CONFIDENCE) / math.log(max(quantile, 1 - quantile)))


def location(sample: Sample) -> float:
    """Return the log-ratio that the sample stands for: the trimmed mean, of each recording, their mean."""
    counted = sample.counted if len(sample.counted) else sample
    return float(counted.raw.means.mean())


def _verdict(
    change: Change, margin: float, processes: int, level: float, hours_level: float, *, last: bool
) -> Judgement:
    allowed = math.log1p(margin)
    half, within = change.half(level, hours_level), change.within(level)
    # However many processes come, hours stay.
    lasting = t_quantile(hours_level, change.hours_freedom) * change.hours_error
    doubt = 1 - PASS_CONFIDENCE
    bound = change.value + math.hypot(
        change.within(doubt), t_quantile(doubt, math.inf) * change.speed_error
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
    return Judgement(Verdict.INCONCLUSIVE, Estimate(math.nan, 0.0, math.inf), margin, count, reason)
