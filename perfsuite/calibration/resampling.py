"""Many more suite runs than anybody can wait for, drawn from the processes of those that were recorded.

A simulated run draws one recorded run, and then its processes with replacement: what all processes of a run
share, because the machine was in some state, stays together. The baseline is drawn from ``RECORDINGS`` other
runs, as one is recorded over several states of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from perfsuite.calibration.rules import RULES, Process, Processes, gate_is_red
from perfsuite.calibration.suites import EXTENSIONS, Run
from perfsuite.gate.baselines import measured_margin
from perfsuite.gate.deciding import MIN_ROUNDS
from perfsuite.gate.judging import RECORDED_BATCHES
from perfsuite.gate.speed import Sample

GATE = "this gate"
RECORDINGS = 4  # runs that a simulated baseline is drawn from
LEVEL = 0.01  # of false alarms per stage, at which the rules are compared


@dataclass(frozen=True)
class Rates:
    """Shares of simulated runs that were red, by rule; ``at_level`` with every threshold moved to ``LEVEL``.

    ``red`` is what this gate said of each simulated run, in order.
    """

    as_used: Mapping[str, float]
    at_level: Mapping[str, float]
    red: Sequence[bool]


def processes_of(run: Run, stage: str) -> list[Process]:
    """Return the processes of a recorded run as far as they were undisturbed."""
    subject = run.subjects[stage]
    columns = (subject[name] for name in ("samples", "yardstick_seconds", "seconds"))
    return [
        Process(rounds, median(yardstick), seconds)
        for rounds, yardstick, seconds in zip(*columns, strict=True)
        if len(rounds) >= MIN_ROUNDS
    ]


def simulate(
    unchanged: Sequence[Processes],
    slowed: Mapping[str, Sequence[Processes]],
    *,
    processes: int,
    simulations: int,
    seed: int = 0,
) -> Mapping[str, Rates]:
    """Return the rates of unchanged runs (key "") and of each kind in ``slowed``.

    ``unchanged`` and each value of ``slowed`` hold one list of processes per recorded run; at least two
    unchanged runs are needed, because a baseline is never drawn from the run that it is held against.
    ``processes`` are those of one look. With one ``seed``, the same recorded runs are drawn for every stage: the
    n-th simulation of each is of one suite.
    """
    rng, suites = np.random.default_rng(seed), np.random.default_rng(seed)
    kinds = {"": unchanged, **slowed}
    red: dict[str, list[bool]] = {kind: [] for kind in kinds}
    values: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in RULES} for kind in kinds
    }
    for kind, runs in kinds.items():
        for _ in range(simulations):
            current, *others = suites.permutation(len(unchanged))
            recordings = [process for run in others[:RECORDINGS] for process in unchanged[run]]
            stored = _drawn(recordings, (1 + EXTENSIONS) * RECORDED_BATCHES * processes, rng)
            source = (
                unchanged[current] if runs is unchanged else runs[int(suites.integers(len(runs)))]
            )
            looks = [_drawn(source, processes, rng)]

            def draw(source: Processes = source, looks: list[Processes] = looks) -> Processes:
                return looks.pop() if looks else _drawn(source, processes, rng)

            before, after = _seconds(stored), _seconds(looks[0])
            margin = measured_margin(Sample.of(stored), processes, draws=100)
            seed = int(rng.integers(2**31))
            red[kind].append(gate_is_red(stored, draw, margin=margin, seed=seed))
            for name, rule in RULES.items():
                values[kind][name].append(rule.statistic(before, after))
    return {
        kind: Rates(
            {
                GATE: float(np.mean(red[kind])),
                **{
                    name: float(np.mean(np.array(values[kind][name]) > rule.threshold))
                    for name, rule in RULES.items()
                },
            },
            {
                name: float(
                    np.mean(np.array(values[kind][name]) > np.quantile(values[""][name], 1 - LEVEL))
                )
                for name in RULES
            },
            red[kind],
        )
        for kind in kinds
    }


def _drawn(source: Processes, count: int, rng: np.random.Generator) -> Processes:
    return [source[int(index)] for index in rng.integers(len(source), size=count)]


def _seconds(processes: Processes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate([np.asarray(process.seconds) for process in processes])
