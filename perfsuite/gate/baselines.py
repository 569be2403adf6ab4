"""``baselines.json``: what each gated subject took when somebody accepted it.

Entries lie in profiles, one per machine and workload, because even ratios move with the processor. For a
machine without a profile there is the ``portable`` section: a ratio and a wide margin that hold on all
machines recorded so far.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, isfinite, log
from pathlib import Path
from typing import Any

import numpy as np

from perfsuite.errors import UsageError
from perfsuite.files import write_text
from perfsuite.gate import deciding
from perfsuite.gate.speed import Sample, noise
from perfsuite.machine import Machine

SCHEMA = 5  # older ones held a list per figure, one speed of the machine, or none
PORTABLE_MARGIN = 1.5  # a stage may take up to 2.5 times what it takes over the yardstick elsewhere
LEAST_MARGIN = 0.02  # what a machine that is shared moves by itself from one minute to the next
MOST_PROCESSES = 100  # of one entry: an extension drops the oldest beyond
_FINGERPRINT = ("cpu", "cpu_model", "threads", "gpu", "driver", "torch", "cuda")
_DEPTH_OF_A_PROCESS = 6  # in the file: profiles, one, entries, one, processes, one


@dataclass(frozen=True)
class Process:
    """What is stored of one fresh process."""

    rounds: list[float]  # log of the subject's time over the yardstick's
    latency_ms: float
    yardstick_ms: float  # the speed at which the machine ran: see ``speed``
    phases: dict[str, float]  # over the yardstick's time

    @property
    def yardstick_s(self) -> float:
        """The same in seconds, as ``Sample`` has it."""
        return self.yardstick_ms / 1e3


@dataclass(frozen=True)
class Entry:
    """One subject as it was accepted. Every process knows the same phases."""

    processes: list[Process]
    margin: float

    @classmethod
    def measured(cls, processes: list[Process], per_look: int) -> Entry:
        """Return the entry with the margin that looks at so many processes need."""
        return cls(processes, measured_margin(Sample.of(processes), per_look))

    @property
    def sample(self) -> Sample:
        """What others are held against."""
        return Sample.of(self.processes)

    @property
    def ratio(self) -> float:
        """The subject's time over the yardstick's."""
        return exp(deciding.location(self.sample.rounds))

    @property
    def phases(self) -> dict[str, list[float]]:
        """Each phase in every process, over the yardstick's time."""
        return {
            phase: [process.phases[phase] for process in self.processes]
            for phase in self.processes[0].phases
        }


@dataclass
class Profile:
    """What was recorded on one machine with one workload."""

    machine: dict[str, Any]
    workload: dict[str, Any]
    recorded: dict[str, Any] = field(default_factory=dict)  # commit, date, versions
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass
class Baselines:
    """The file's content."""

    profiles: list[Profile] = field(default_factory=list)
    portable: dict[str, float] = field(default_factory=dict)  # ratio per subject

    def find(self, machine: Mapping[str, Any], workload: Mapping[str, Any]) -> Profile | None:
        """Return the profile of this machine and workload, None where there is none."""
        for profile in self.profiles:
            if profile.machine == dict(machine) and profile.workload == dict(workload):
                return profile
        return None

    def profile(self, machine: Mapping[str, Any], workload: Mapping[str, Any]) -> Profile:
        """Return the profile of this machine and workload, made where there is none."""
        found = self.find(machine, workload)
        if found is None:
            found = Profile(dict(machine), dict(workload))
            self.profiles.append(found)
        return found

    def names(self) -> set[str]:
        """Return every subject that the file speaks of."""
        return set(self.portable).union(*(profile.entries for profile in self.profiles))


def fingerprint_of(machine: Machine) -> dict[str, Any]:
    """Return the part of a machine's description that must be equal for seconds to be comparable."""
    return {name: machine[name] for name in _FINGERPRINT}  # type: ignore[literal-required]


def measured_margin(stored: Sample, processes: int, *, draws: int = 1000, seed: int = 0) -> float:
    """Return the margin that runs of ``processes`` processes need, from A/A noise alone.

    Draws two disjoint groups of recorded processes again and again, and takes the 95 % quantile of the
    change between them, each process held against those of its speed; at least ``LEAST_MARGIN``.
    """
    rng = np.random.default_rng(seed)
    differences = noise(stored)
    size = max(1, min(processes, len(differences) // 2))
    order = rng.permuted(np.tile(differences, (draws, 1)), axis=1)
    one, other = (deciding.trimmed_mean(part) for part in (order[:, :size], order[:, size:]))
    changes = np.abs(one - other)
    return max(LEAST_MARGIN, exp(float(np.quantile(changes, 0.95))) - 1)


def read(path: Path) -> Baselines:
    """Read the file; one that does not exist is empty.

    Raises:
        UsageError: naming the place in the file, if it is damaged or of another schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Baselines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path}: is damaged: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise UsageError(f"{path}: is damaged: schema is missing")
    if data["schema"] != SCHEMA:
        age = "a newer" if data["schema"] > SCHEMA else "an older"
        raise UsageError(
            f"{path}: schema {data['schema']} is of {age} version, this one reads {SCHEMA}: "
            "use that version, or record anew with --update-baselines after removing the file"
        )
    try:
        return Baselines(
            [_profile(profile) for profile in data["profiles"]],
            {name: _positive(ratio) for name, ratio in data["portable"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: is damaged: {type(error).__name__}: {error}") from error


def write(path: Path, baselines: Baselines) -> None:
    """Write the file, whole or not at all: rounded, keys sorted, a line per process.

    Raises:
        UsageError: if it cannot be written.
    """
    for name in {name for profile in baselines.profiles for name in profile.entries}:
        ratios = [p.entries[name].ratio for p in baselines.profiles if name in p.entries]
        baselines.portable[name] = round(exp(float(np.median(np.log(ratios)))), 3)
    content = {
        "schema": SCHEMA,
        "portable": baselines.portable,
        "profiles": [_written(profile) for profile in baselines.profiles],
    }
    write_text(path, _text(content) + "\n")


def _written(profile: Profile) -> dict[str, Any]:
    entries = {
        name: {
            "ratio": round(entry.ratio, 3),  # for people: the processes are what counts
            "margin": round(entry.margin, 4),
            "processes": [
                {
                    "rounds": [round(value, 4) for value in process.rounds],
                    "latency_ms": round(process.latency_ms, 3),
                    "yardstick_ms": round(process.yardstick_ms, 3),
                    "phases": {phase: round(share, 4) for phase, share in process.phases.items()},
                }
                for process in entry.processes
            ],
        }
        for name, entry in profile.entries.items()
    }
    return {**vars(profile), "entries": entries}


def _text(value: Any, depth: int = 0) -> str:
    """Return JSON with sorted keys, and a line for all of a process."""
    if depth == _DEPTH_OF_A_PROCESS or not isinstance(value, dict | list) or not value:
        return json.dumps(value, sort_keys=True)
    if isinstance(value, dict):
        opened, closed = "{}"
        parts = [f"{json.dumps(name)}: {_text(value[name], depth + 1)}" for name in sorted(value)]
    else:
        opened, closed = "[]"
        parts = [_text(part, depth + 1) for part in value]
    within = ",\n".join(f"{' ' * (depth + 1)}{part}" for part in parts)
    return f"{opened}\n{within}\n{' ' * depth}{closed}"


def _profile(data: Mapping[str, Any]) -> Profile:
    return Profile(
        dict(data["machine"]),
        dict(data["workload"]),
        dict(data["recorded"]),
        {name: _entry(entry) for name, entry in data["entries"].items()},
    )


def _entry(data: Mapping[str, Any]) -> Entry:
    entry = Entry([_process(process) for process in data["processes"]], _positive(data["margin"]))
    if len(entry.processes) < deciding.MIN_REPLICATES:
        raise ValueError("processes: too few")
    if any(
        process.phases.keys() != entry.processes[0].phases.keys() for process in entry.processes
    ):
        raise ValueError("processes: they know different phases")
    stored = _positive(data["ratio"])
    if abs(log(stored) - log(entry.ratio)) > 0.01:
        raise ValueError(f"ratio {stored} is not the processes' own")
    return entry


def _process(data: Mapping[str, Any]) -> Process:
    rounds = [_finite(value) for value in data["rounds"]]
    if len(rounds) < deciding.MIN_ROUNDS:
        raise ValueError("rounds: too few")
    return Process(
        rounds,
        _positive(data["latency_ms"]),
        _positive(data["yardstick_ms"]),
        {str(name): _finite(share) for name, share in data["phases"].items()},
    )


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _positive(value: object) -> float:
    number = _finite(value)
    if number <= 0:
        raise ValueError(f"{value!r} is not positive")
    return number
