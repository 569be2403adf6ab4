"""One benchmark against its baseline: sample, judge, sample more where it is needed, confirm every red."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from perfsuite.errors import MeasurementError
from perfsuite.gate import inference, sampling, sequential
from perfsuite.gate.baselines import Baselines, Entry, Plan, Recording
from perfsuite.gate.conditioning import supported, uncontended
from perfsuite.gate.inference import Hours, Judgement, Sample, Verdict
from perfsuite.gate.interference import Watch
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.gate.sampling import Measured, Pair
from perfsuite.provenance import provenance
from perfsuite.units import seconds

RECORDED_LOOKS = 6  # a baseline is made from as many times the processes of one look
FEWEST_RECORDED = 5
SAME_PROCESSOR_MARGIN = 0.25  # against what was recorded with other versions
PORTABLE_MARGIN = 1.5  # against what was recorded on another processor
DEFAULT_MARGIN = 0.05  # of a comparison, and of memory
BASE = "base"  # how a comparison's other side is called where a gate has a reference
_PROCESSOR = frozenset({"cpu", "cpu_model", "threads", "gpu"})
_CONFIRMATION = 1.5  # times the time limit, at most, that a red verdict's confirmation may end at

# Opens a subject and the named references, ready in fresh processes.
Open = Callable[[Sequence[str]], AbstractContextManager[Pair]]


@dataclass(frozen=True)
class Rules:
    """How is sampled and judged."""

    processes: int = sequential.PROCESSES
    looks: int = sequential.LOOKS
    time_limit_s: float = 60.0
    subjects: int = 1  # benchmarks of the run, for its rate of false alarms
    in_turn: bool = (
        False  # what recordings cannot support is then measured in turn with their commit
    )
    seed: int = 0
    clock: Callable[[], float] = time.monotonic
    watch: Callable[[], Watch] = Watch


@dataclass(frozen=True)
class Case:
    """One benchmark as it stands now: what identifies it, and the thresholds of its own."""

    name: str
    node: str
    machine: Mapping[str, Any]
    references: Sequence[str]  # that it can be held against: its own alone, or all built-in ones
    workload: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    margin: float | None = None
    max_s: float | None = None
    quantile: float | None = None
    memory: bool = False
    throughput: float | None = None


class Gate:
    """Judges benchmarks against the baselines of one file, and records them there."""

    def __init__(self, baselines: Baselines, rules: Rules) -> None:
        self.baselines, self._rules = baselines, rules

    def check(
        self,
        case: Case,
        open_pair: Open,
        renew: Callable[[], None] = lambda: None,
        progress: Callable[[int], None] = lambda processes: None,
    ) -> Outcome:
        """Measure and judge ``case``. ``renew`` replaces what its processes share, before a red is confirmed."""
        entry = self.baselines.find(case.name, case.machine, case.workload)
        closest = self.baselines.closest(case.name, case.machine, case.workload)
        held = entry or self._portable(case)
        if held is None and case.max_s is None:
            return Outcome(case.name, case.node, Status.NO_BASELINE, self._why_none(closest))
        if held is not None and (changed := _changed(case, held)):
            return Outcome(case.name, case.node, Status.CHANGED, changed)
        sampler = Sampler(
            case,
            open_pair,
            self._rules,
            references=case.references[:1] if held is None else [held.reference],
            stored={held.reference: held.plan} if held and held.plan else None,
            progress=progress,
        )
        if held is None:
            return sampler.limited(
                f"no baseline in {self.baselines.path}: held against max_ms alone"
            )
        if entry is None:
            return sampler.judged(held, renew, portable=_difference(case, held))
        return sampler.judged(held, renew, others=self._hours(case))

    def record(
        self,
        case: Case,
        open_pair: Open,
        progress: Callable[[int], None] = lambda processes: None,
        *,
        extend: bool = False,
    ) -> Outcome:
        """Measure ``case`` and store what it takes; with ``extend`` beside what is stored already.

        Raises:
            MeasurementError: if others used the machine all the time.
            UsageError: if what was measured cannot be judged, or the file cannot be written.
        """
        before = None
        if extend:
            before = self.baselines.find(case.name, case.machine, case.workload)
            if before is not None and (changed := _changed(case, before)):
                raise MeasurementError(f"{case.name}: not extended: {changed}")
        sampler = Sampler(
            case,
            open_pair,
            self._rules,
            references=[before.reference] if before else case.references,
            stored={before.reference: before.plan} if before and before.plan else None,
            progress=progress,
        )
        measured = sampler.record(RECORDED_LOOKS * self._rules.processes)
        reference = _best_reference(measured)
        processes = _usable(case.name, [one.process(reference) for one in measured])
        entry = Entry(
            name=case.name,
            machine=case.machine,
            workload=case.workload,
            reference=reference,
            code=case.code,
            plan=sampler.plans[reference],
            quantile=case.quantile,
            recordings=[Recording(provenance(but=self.baselines.path), processes)],
        )
        if before is not None:
            _refuse_creep(before, entry)
            self.baselines.extend(entry)
        else:
            self.baselines.record(entry)
        kind = "added" if before is not None else "made"
        return Outcome(
            case.name,
            case.node,
            Status.RECORDED,
            f"{kind} from {len(processes)} processes, reference: {reference}",
            processes=processes,
            reference=reference,
            looks=RECORDED_LOOKS,
            notes=_notes(measured),
            workload=case.workload,
            throughput=case.throughput,
        )

    def _hours(self, case: Case) -> Hours:
        """Return by how much recordings of the machine's other benchmarks differ."""
        return Hours.of(
            [
                _sample(entry)
                for entry in self.baselines.entries
                if entry.machine == case.machine and entry.name != case.name
            ]
        )

    def _portable(self, case: Case) -> Entry | None:
        """Return what is nearest of what other machines recorded with this workload."""
        others = self.baselines.others(case.name, case.workload)

        def distance(entry: Entry) -> tuple[bool, int]:
            fields = _differing(case, entry)
            return bool(_PROCESSOR.intersection(fields)), len(fields)

        return min(others, key=distance, default=None)

    def _why_none(self, closest: tuple[Entry, Sequence[str]] | None) -> str:
        if closest is None:
            return f"no baseline in {self.baselines.path}"
        return (
            f"no baseline of this workload in {self.baselines.path}: {', '.join(closest[1])} differ"
        )


class Sampler:
    """Fresh processes of one benchmark, one after the other, until the time is over."""

    def __init__(
        self,
        case: Case,
        open_pair: Open,
        rules: Rules,
        *,
        references: Sequence[str],
        stored: Mapping[str, Plan] | None = None,
        progress: Callable[[int], None] = lambda processes: None,
    ) -> None:
        self._case, self._open, self._rules = case, open_pair, rules
        self._references, self._stored = references, stored
        self.plans: Mapping[str, Plan] = {}  # once a process has been measured
        self._order = random.Random(rules.seed)  # noqa: S311 - an order, not a secret
        self._began = rules.clock()
        self._progress = progress
        self.measured: list[Measured] = []

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first process was asked for."""
        return self._rules.clock() - self._began

    def out_of_time(self) -> bool:
        """Whether no further look may begin."""
        return self.elapsed_s >= self._rules.time_limit_s

    def look(
        self, processes: int, *, least: int = 1, limit_s: float | None = None
    ) -> list[Measured]:
        """Measure fresh processes, at least ``least`` however late it is; until ``limit_s`` or the time limit."""
        end_s = self._rules.time_limit_s if limit_s is None else limit_s
        made: list[Measured] = []
        while len(made) < processes and (len(made) < least or self.elapsed_s < end_s):
            made.append(self._one())
            self.measured.append(made[-1])
            self._progress(len(self.measured))
        return made

    def confirm(self, processes: int) -> list[Measured]:
        """Measure ``processes`` fresh ones to confirm a red verdict, beyond the limit if need be."""
        limit_s = _CONFIRMATION * self._rules.time_limit_s
        return self.look(processes, least=inference.FEWEST, limit_s=limit_s)

    def _one(self) -> Measured:
        with self._open(self._references) as pair:
            if not self.plans:
                self.plans = self._planned(pair)
            return sampling.measure(
                pair,
                self.plans,
                order=self._order,
                quantile=self._case.quantile,
                watch=self._rules.watch(),
            )

    def _planned(self, pair: Pair) -> Mapping[str, Plan]:
        quantile = self._case.quantile
        if quantile is None:
            return sampling.make_plan(pair, stored=self._stored)
        try:
            return sampling.make_plan(
                pair,
                calls=inference.needed_for(quantile),
                longest_s=self._rules.time_limit_s / inference.FEWEST,
                stored=self._stored,
            )
        except MeasurementError as error:
            raise MeasurementError(
                f"{self._case.name}: quantile {quantile:g} {error}; raise perf_time_limit"
            ) from error

    def record(self, processes: int) -> list[Measured]:
        """Measure what a baseline is made of: so many processes, fewer where the time is over.

        Raises:
            MeasurementError: if others used the machine in most of them.
        """
        measured = self.look(processes, least=FEWEST_RECORDED)
        quiet = [one for one in measured if any(not each.disturbed for each in one.rounds)]
        if len(quiet) < max(inference.FEWEST, len(measured) / 2):
            raise MeasurementError(
                f"{self._case.name}: not recorded: others used the machine during "
                f"{len(measured) - len(quiet)} of {len(measured)} processes; end them, or try again later"
            )
        return quiet

    def judged(
        self,
        entry: Entry,
        renew: Callable[[], None],
        *,
        portable: tuple[float, str] | None = None,
        others: Hours | None = None,
    ) -> Outcome:
        """Measure and judge against ``entry``.

        ``portable`` is margin and reason where it is another machine's, ``others`` what other benchmarks
        of the machine say of its hours.
        """
        case, rules, reference = self._case, self._rules, entry.reference
        stored = _sample(entry)
        if portable is not None:
            stored = _any_speed(stored)
        margin = portable[0] if portable else case.margin

        def judge(measured: Sequence[Measured], look: int) -> Judgement:
            current = Sample.of([[one.process(reference) for one in measured]])
            return inference.judge(
                current if portable is None else _any_speed(current),
                stored,
                margin=margin,
                look=look,
                looks=rules.looks,
                subjects=rules.subjects,
                others=others,
            )

        outcome = self._decided(judge, reference, renew)
        outcome.stored_ratio = entry.ratio
        outcome.stored_phases = _phases(entry.processes)
        if outcome.status is Status.INCONCLUSIVE and portable is None:
            self._explain(outcome, entry)
        if portable is not None:
            outcome.reason = f"{outcome.reason}; {portable[1]}"
            if outcome.status in (Status.PASS, Status.IMPROVED, Status.EXTEND):
                outcome.status = Status.PORTABLE
        if case.memory:
            peaks = Sample.of([_peaks(recording.processes) for recording in entry.recordings])
            outcome.memory = inference.judge(
                Sample.of([_peaks(outcome.processes)]),
                peaks,
                margin=DEFAULT_MARGIN if margin is None else margin,
                subjects=rules.subjects,
                assumed_sd=0.0,  # hours leave memory alone
            )
            _tell_memory(outcome, outcome.memory)
        self._judge_limit(outcome)
        return outcome

    def compared(self, renew: Callable[[], None]) -> Outcome:
        """Measure and judge head against base."""
        rules, margin = self._rules, self._case.margin
        if margin is None:
            margin = DEFAULT_MARGIN

        def judge(measured: Sequence[Measured], look: int) -> Judgement:
            return inference.judge_paired(
                Sample.of([[one.process(BASE) for one in measured]]),
                margin=margin,
                look=look,
                looks=rules.looks,
                subjects=rules.subjects,
            )

        outcome = self._decided(judge, BASE, renew)
        base = [
            seconds
            for one in self.measured
            for each in one.rounds
            for seconds in each.references[BASE].seconds
        ]
        outcome.base_s = float(np.median(base))
        outcome.base_phases_s = sampling.median_phases(
            [
                phases
                for one in self.measured
                for each in one.rounds
                for phases in each.references[BASE].phases
            ]
        )
        if self._case.memory:
            outcome.memory = inference.judge_paired(
                Sample.of([_paired_peaks(self.measured)]), margin=margin, subjects=rules.subjects
            )
            _tell_memory(outcome, outcome.memory)
        self._judge_limit(outcome)
        return outcome

    def limited(self, reason: str) -> Outcome:
        """Measure, and hold the seconds against ``max_ms`` alone."""
        reference = self._references[0]
        self.look(RECORDED_LOOKS * self._rules.processes, least=inference.FEWEST)
        outcome = self._outcome(Status.PASS, reason, reference, looks=RECORDED_LOOKS)
        verdict = self._judge_limit(outcome)
        if verdict in (Verdict.INCONCLUSIVE, Verdict.EXTEND):
            outcome.status = Status.INCONCLUSIVE
        return outcome

    def _decided(
        self,
        judge: Callable[[Sequence[Measured], int], Judgement],
        reference: str,
        renew: Callable[[], None],
    ) -> Outcome:
        rules = self._rules

        def measure() -> list[Measured]:
            return self.look(rules.processes, least=0 if self.measured else inference.FEWEST)

        decision = sequential.decide(
            measure,
            judge,
            looks=rules.looks,
            out_of_time=self.out_of_time,
            renew=renew,
            confirm=lambda: self.confirm(rules.processes),
            extend_ends=rules.in_turn,
        )
        judgement = decision.judgement
        outcome = self._outcome(
            Status(judgement.verdict.value), judgement.reason, reference, decision.looks
        )
        outcome.judgement = judgement
        if math.isfinite(judgement.change.low) and judgement.change.low > 0:
            seen = (1 + judgement.margin) * judgement.change.value / judgement.change.low - 1
            outcome.resolution = seen
        if outcome.status is Status.INCONCLUSIVE and outcome.resolution is not None:
            outcome.reason += f"; these samples show changes of {outcome.resolution:.1%} and more"
        return outcome

    def _outcome(self, status: Status, reason: str, reference: str, looks: int) -> Outcome:
        case = self._case
        return Outcome(
            name=case.name,
            node=case.node,
            status=status,
            reason=reason,
            processes=[one.process(reference) for one in self.measured],
            reference=reference,
            looks=looks,
            notes=_notes(self.measured),
            workload=case.workload,
            throughput=case.throughput,
        )

    def _explain(self, outcome: Outcome, entry: Entry) -> None:
        """Say that it is the machine, where most of what was measured did not count because of it."""
        every = sum(one.rounds + one.disturbed for one in outcome.processes)
        if 2 * outcome.disturbed > every:
            outcome.reason = f"others used the machine in {outcome.disturbed} of {every} rounds"
            return
        shown, stored_s = outcome.shown, [one.reference_s for one in entry.processes]
        known = supported([one.reference_s for one in shown], stored_s)
        if 2 * int(np.count_nonzero(known)) < len(shown):
            outcome.status = Status.UNKNOWN_SPEED
            now = seconds(float(np.median([one.reference_s for one in shown])))
            outcome.reason = (
                f"the machine ran at a speed that the baseline does not know: reference {now}, stored "
                f"{seconds(min(stored_s))} to {seconds(max(stored_s))}; extend it with --extend-baselines"
            )

    def _judge_limit(self, outcome: Outcome) -> Verdict | None:
        limit_s = self._case.max_s
        if limit_s is None:
            return None
        judgement = inference.judge_limit(
            np.array([one.subject_s for one in outcome.shown]), limit_s, look=1, looks=1
        )
        if judgement.verdict is Verdict.REGRESSION:
            outcome.status = Status.REGRESSION
            outcome.reason = f"a call takes more than {seconds(limit_s)}: {judgement.reason}"
        return judgement.verdict


def compare(
    case: Case,
    open_pair: Open,
    rules: Rules,
    renew: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda processes: None,
) -> Outcome:
    """Measure head against base, which ``open_pair`` opens as the reference ``BASE``."""
    sampler = Sampler(case, open_pair, rules, references=[BASE], progress=progress)
    return sampler.compared(renew)


def _changed(case: Case, entry: Entry) -> str:
    """Return in what the benchmark is not what was recorded; an empty text where it is."""
    if entry.reference not in case.references:
        what = f"its reference was {entry.reference!r}"
    elif entry.quantile != case.quantile:
        what = f"quantile {entry.quantile} was judged"
    elif entry.code and case.code and entry.code != case.code:
        what = "its code, or its reference's, is not what was recorded"
    else:
        return ""
    return f"{what}; record anew"


def _difference(case: Case, entry: Entry) -> tuple[float, str]:
    """Return the margin that another machine's entry is held against with, and why."""
    fields = _differing(case, entry)
    margin = PORTABLE_MARGIN if _PROCESSOR.intersection(fields) else SAME_PROCESSOR_MARGIN
    told = ", ".join(
        f"machine.{name} {entry.machine.get(name)} stored, {case.machine.get(name)} here"
        for name in fields
    )
    return margin, f"another machine's baseline: {told}"


def _differing(case: Case, entry: Entry) -> list[str]:
    names = {*case.machine, *entry.machine}
    return sorted(name for name in names if case.machine.get(name) != entry.machine.get(name))


def _sample(entry: Entry) -> Sample:
    return Sample.of([recording.processes for recording in entry.recordings])


def _any_speed(sample: Sample) -> Sample:
    """Return the same as if the machine had been as fast in every process."""
    return replace(sample, reference_s=np.ones_like(sample.reference_s))


def _best_reference(measured: Sequence[Measured]) -> str:
    """Return the reference whose ratio varies least from process to process: the one that tracks best."""

    def spread(name: str) -> float:
        ratios = [one.process(name).log_ratio for one in measured]
        low, high = np.quantile(ratios, [0.25, 0.75])
        return float(high - low)

    return min(measured[0].references, key=spread)


def _usable(name: str, processes: Sequence[Process]) -> list[Process]:
    """Return the processes that had the machine for themselves.

    Raises:
        MeasurementError: if they are too few.
    """
    counted = [one for one in processes if one.rounds]
    alone = uncontended([one.reference_s for one in counted])
    usable = [one for one, is_alone in zip(counted, alone, strict=True) if is_alone]
    if len(usable) < max(inference.FEWEST, len(processes) / 2):
        raise MeasurementError(
            f"{name}: not recorded: others used the machine during {len(processes) - len(usable)} of "
            f"{len(processes)} processes; end them, or try again later"
        )
    return usable


def _refuse_creep(before: Entry, added: Entry) -> None:
    """Refuse an extension that is slower than the oldest recordings.

    Raises:
        MeasurementError: naming by how much, and the oldest recording.
    """
    recordings = [*before.recordings, *added.recordings]
    crept = inference.crept(Sample.of([one.processes for one in recordings]))
    if crept is not None:
        oldest = before.recordings[0].recorded
        raise MeasurementError(
            f"{before.name}: not extended: {crept.value - 1:+.1%} [{crept.low - 1:+.1%}, {crept.high - 1:+.1%}] "
            f"against what was recorded at {oldest.get('date', '?')}, commit {oldest.get('commit') or '?'}: an "
            "extension is of the same code; --update-baselines accepts other code"
        )


def _peaks(processes: Sequence[Process]) -> list[Process]:
    """Return the processes with the logarithm of their peak of memory in the place of their ratio's.

    Whoever disturbed their time left their memory alone.
    """
    return [
        replace(one, log_ratio=math.log(one.peak_bytes), reference_s=1.0, rounds=1)
        for one in processes
        if one.peak_bytes
    ]


def _paired_peaks(measured: Sequence[Measured]) -> list[Process]:
    """Return the processes with the logarithm of head's peak of memory over base's, where both are known."""
    found = []
    for one in measured:
        last = one.rounds[-1]
        head, base = last.subject.peak_bytes, last.references[BASE].peak_bytes
        if head and base:
            found.append(replace(one.process(BASE), log_ratio=math.log(head / base), rounds=1))
    return found


def _tell_memory(outcome: Outcome, memory: Judgement) -> None:
    """Let ``outcome`` be no better than its memory."""
    if memory.verdict is Verdict.REGRESSION:
        outcome.status = Status.REGRESSION
        told = f"grew by {memory.change.value - 1:.1%}"
    elif memory.verdict in (Verdict.INCONCLUSIVE, Verdict.EXTEND) and outcome.status in (
        Status.PASS,
        Status.IMPROVED,
        Status.PORTABLE,
    ):
        outcome.status = Status(memory.verdict.value)
        told = memory.reason
    else:
        return
    outcome.reason = f"peak memory: {told}; time: {outcome.reason}"


def _phases(processes: Sequence[Process]) -> dict[str, float]:
    names = set(processes[0].phases).intersection(*(one.phases for one in processes))
    return {
        name: float(np.mean([one.phases[name] for one in processes]))
        for name in processes[0].phases
        if name in names
    }


def _notes(measured: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(note for one in measured for note in one.notes))
