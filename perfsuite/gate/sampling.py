"""Rounds of a subject and of its reference, measured in turn in one fresh process.

The rules, fixed before any result is seen. A round is a block of each, in drawn order. A block is some runs
after some that are discarded, because what ran before it has emptied the caches. A round's value is the
log-ratio of the blocks' medians, a process's value the median of its rounds. Each process has run subject and
reference once before (its first call is never timed); where calls are short, its first round is discarded
as well. Rounds in which the machine was disturbed (see ``interference``), or not as fast as in the process's
median round, are counted and left out.

Blocks, because a run right after one of the other kind is up to a quarter slower than one after its own. Short
ones, because on a machine with neighbours everything is slower for some hundredths of a second now
and then: what they spoil is to be few of many rounds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from msgspec.structs import replace

from perfsuite.errors import MeasurementError
from perfsuite.gate.baselines import Plan
from perfsuite.gate.conditioning import steady
from perfsuite.gate.interference import DISTURBED_SHARE, WAITED_SHARE, Watch
from perfsuite.gate.process import Process
from perfsuite.units import seconds as in_words

RUN_S = 5e-4  # a run lasts at least so long: some ten thousand ticks of the clock
_REFERENCE_SHARE = 0.05  # of a subject's run that a built-in reference's lasts at least
_LONGEST_REFERENCE_S = 0.02
_PROCESS_S = 0.35  # that a process is measured for, where its calls are short enough
_ROUNDS = 10  # at most
_RUNS = 3  # of a block
_SLOW_S = 0.1  # for a call of each: nothing is discarded any more, and rounds are few
_OVERLONG = 4.0  # times _PROCESS_S: what was planned for a faster call is planned anew


class Runs(Protocol):
    """Some runs in a row."""

    @property
    def seconds(self) -> Sequence[float]:
        """Seconds of a call, in each run."""
        ...

    @property
    def phases(self) -> Sequence[Mapping[str, float]]:
        """Seconds of its phases, in each run; empty where nobody traced them."""
        ...

    @property
    def cpu_s(self) -> float:
        """Processor seconds of the whole process since it began."""
        ...

    @property
    def waited(self) -> float:
        """Share of the time in which the process was ready to run and others had its processor."""
        ...

    @property
    def peak_bytes(self) -> int | None:
        """Most resident memory so far, where asked for."""
        ...


@dataclass(frozen=True)
class Runner:
    """What is timed: the subject, or a reference."""

    process: int  # runners of one process have one number
    calibrate: Callable[
        [float], tuple[int, float]
    ]  # seconds of a run -> calls in it, seconds of one
    measure: Callable[[int, int, int], Runs]  # runs, calls in each, runs discarded before


@dataclass(frozen=True)
class Pair:
    """A subject and what it is held against, ready in fresh processes."""

    subject: Runner
    references: Mapping[str, Runner]
    server: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Round:
    """One block of each."""

    subject: Runs
    references: Mapping[str, Runs]
    disturbed: bool = False


@dataclass(frozen=True)
class Measured:
    """All rounds of one process, or pair of processes."""

    rounds: Sequence[Round]
    server: str = ""
    notes: Sequence[str] = ()
    quantile: float | None = field(default=None)

    @property
    def references(self) -> Sequence[str]:
        """The references that were measured."""
        return list(self.rounds[0].references)

    @property
    def subject_s(self) -> list[float]:
        """Seconds of a call in every run of the subject."""
        return [seconds for one in self.rounds for seconds in one.subject.seconds]

    def process(self, reference: str) -> Process:
        """Return what counts: the rounds that were quiet, all of them where none was (``rounds`` is 0 then)."""
        kept = self._kept(reference)
        shown = kept or list(self.rounds)
        subject = [seconds for one in shown for seconds in one.subject.seconds]
        held = [seconds for one in shown for seconds in one.references[reference].seconds]
        reference_s = median(held)
        if self.quantile is None:
            log_ratio = median(
                math.log(median(one.subject.seconds) / median(one.references[reference].seconds))
                for one in shown
            )
            subject_s = median(subject)
        else:
            subject_s = quantile(subject, self.quantile)
            log_ratio = math.log(subject_s / reference_s)
        phases = [by_name for one in shown for by_name in one.subject.phases]
        return Process(
            log_ratio=log_ratio,
            subject_s=subject_s,
            reference_s=reference_s,
            server=self.server,
            phases={name: seconds / reference_s for name, seconds in median_phases(phases).items()},
            peak_bytes=self.rounds[-1].subject.peak_bytes,
            rounds=len(kept),
            disturbed=len(self.rounds) - len(kept),
        )

    def _kept(self, reference: str) -> list[Round]:
        quiet = [one for one in self.rounds if not one.disturbed]
        speeds = [median(one.references[reference].seconds) for one in quiet]
        return [one for one, keep in zip(quiet, steady(speeds), strict=True) if keep]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def median_phases(phases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median seconds of each phase that every run has."""
    if not phases:
        return {}
    names = set(phases[0]).intersection(*phases)
    return {name: median(one[name] for one in phases) for name in phases[0] if name in names}


def make_plan(
    pair: Pair,
    *,
    calls: int | None = None,
    longest_s: float = math.inf,
    stored: Mapping[str, Plan] | None = None,
) -> dict[str, Plan]:
    """Return how a process is measured against each reference, from the speed of this one.

    Args:
        pair: The first process.
        calls: Of the subject, timed one by one, that a process must make at least; for quantiles.
        longest_s: Seconds that these calls may take.
        stored: Plans that are kept, unless the subject has become so slow that they would take long.

    Raises:
        MeasurementError: if so many calls take longer.
    """
    loops, call_s = pair.subject.calibrate(RUN_S)
    if stored and all(
        one.loops * (one.runs + one.discarded) * one.rounds * call_s <= _OVERLONG * _PROCESS_S
        for one in stored.values()
    ):
        return dict(stored)
    if calls is not None and calls * call_s > longest_s:
        raise MeasurementError(
            f"needs {calls} calls in each process, of {in_words(call_s)} each: more than the time limit allows"
        )
    run_s = min(max(RUN_S, _REFERENCE_SHARE * loops * call_s), _LONGEST_REFERENCE_S)
    references = {name: one.calibrate(run_s) for name, one in pair.references.items()}
    # All are measured in the same rounds.
    longest = max(number * seconds for number, seconds in references.values())
    plan = _plan(loops, 1, loops * call_s + longest)
    if calls is not None:
        plan = replace(plan, loops=1, runs=max(1, math.ceil(calls / _ROUNDS)), rounds=_ROUNDS)
    return {name: replace(plan, reference_loops=number) for name, (number, _) in references.items()}


def _plan(loops: int, reference_loops: int, both_s: float) -> Plan:
    """``both_s``: seconds of a run of each."""
    if both_s > _SLOW_S:
        rounds = max(1, min(5, int(_PROCESS_S / both_s)))
        return Plan(loops, reference_loops, runs=1, rounds=rounds, discarded=0)
    for runs, least in ((_RUNS, 4), (1, 3)):
        rounds = min(_ROUNDS, int(_PROCESS_S / (both_s * (runs + 1))) - 1)
        if rounds >= least:
            return Plan(loops, reference_loops, runs=runs, rounds=rounds, discarded=1)
    return Plan(loops, reference_loops, runs=1, rounds=3, discarded=1)


def measure(
    pair: Pair,
    plans: Mapping[str, Plan],
    *,
    order: random.Random,
    quantile: float | None = None,
    watch: Watch | None = None,
) -> Measured:
    """Measure the subject and every reference in ``plans`` by rounds."""
    watch = watch or Watch()
    plan = next(iter(plans.values()))
    cpu_s: dict[int, float] = {}
    rounds: list[Round] = []

    def block(runner: Runner, loops: int) -> Runs:
        runs = runner.measure(plan.runs, loops, plan.discarded)
        cpu_s[runner.process] = runs.cpu_s
        return runs

    warm_up = 1 if plan.discarded else 0
    if not warm_up:  # the first round counts, and what the processes used before it is not its
        for runner in (pair.subject, *(pair.references[name] for name in plans)):
            cpu_s[runner.process] = runner.measure(0, 1, 0).cpu_s
        watch.foreign_share(sum(cpu_s.values()))
    for number in range(-warm_up, plan.rounds):
        blocks: dict[str | None, Runs] = {}
        roles: list[str | None] = [None, *plans]
        order.shuffle(roles)
        for role in roles:
            if role is None:
                blocks[None] = block(pair.subject, plan.loops)
            else:
                blocks[role] = block(pair.references[role], plans[role].reference_loops)
        share = watch.foreign_share(sum(cpu_s.values()))
        if number >= 0:
            references = {name: blocks[name] for name in plans}
            # Of either: a long block loses its processor to others where a short one fits between them.
            waited = max(one.waited for one in blocks.values())
            disturbed = share > DISTURBED_SHARE or waited > WAITED_SHARE
            rounds.append(Round(blocks[None], references, disturbed))
    return Measured(rounds, pair.server, pair.notes, quantile)
