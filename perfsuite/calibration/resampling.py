"""Many more suite runs than anybody can wait for, drawn from the processes of those that were recorded.

A simulated run draws one recorded run, and then its processes with replacement: what all processes of a run
share, because the machine was in some state, stays together. The baseline is drawn from another run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perfsuite.calibration.rules import RULES, Draw, Process, Processes, gate_is_red
from perfsuite.calibration.suites import Run
from perfsuite.gate.baselines import measured_margin
from perfsuite.gate.deciding import MIN_REPLICATES, MIN_ROUNDS
from perfsuite.gate.judging import RECORDED_BATCHES

GATE = "this gate"
LEVEL = 0.01  # of false alarms per stage, at which the rules are compared


@dataclass(frozen=True)
class Rates:
    """Shares of simulated runs that were red, by rule; ``at_level`` with every threshold moved to ``LEVEL``."""

    as_used: Mapping[str, float]
    at_level: Mapping[str, float]


def processes_of(run: Run, stage: str) -> list[Process]:
    """Return the processes of a recorded run: the rounds that the gate judged, and all undisturbed seconds."""
    subject = run.subjects[stage]
    return [
        Process(rounds, seconds)
        for rounds, seconds in zip(subject["samples"], subject["seconds"], strict=True)
        if seconds
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
    """
    rng = np.random.default_rng(seed)
    kinds = {"": unchanged, **slowed}
    red: dict[str, list[bool]] = {kind: [] for kind in kinds}
    values: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in RULES} for kind in kinds
    }
    for kind, runs in kinds.items():
        for _ in range(simulations):
            first, second = rng.choice(len(unchanged), 2, replace=False)
            stored = _drawn(unchanged[first], RECORDED_BATCHES * processes, rng)
            source = unchanged[second] if runs is unchanged else runs[int(rng.integers(len(runs)))]
            looks = [_drawn(source, processes, rng)]

            def draw(source: Processes = source, looks: list[Processes] = looks) -> Processes:
                return looks.pop() if looks else _drawn(source, processes, rng)

            current = looks[0]
            seed = int(rng.integers(2**31))
            red[kind].append(_gate_is_red(stored, draw, processes=processes, seed=seed))
            before, after = _seconds(stored), _seconds(current)
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
        )
        for kind in kinds
    }


def _gate_is_red(stored: Processes, draw: Draw, *, processes: int, seed: int) -> bool:
    usable = [process for process in stored if len(process.rounds) >= MIN_ROUNDS]
    if len(usable) < MIN_REPLICATES:
        return False  # the gate would not have recorded it
    margin = measured_margin([process.rounds for process in usable], processes, draws=100)
    return gate_is_red(usable, draw, margin=margin, seed=seed)


def _drawn(source: Processes, count: int, rng: np.random.Generator) -> Processes:
    return [source[int(index)] for index in rng.integers(len(source), size=count)]


def _seconds(processes: Processes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate([np.asarray(process.seconds) for process in processes])
