"""``baselines.json``: what each gated subject took when somebody accepted it.

Entries lie in profiles, one per machine and workload, because even ratios move with the processor. For a
machine without a profile there is the ``portable`` section: a ratio and a wide margin that hold on all
machines recorded so far.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import exp, isfinite, log
from pathlib import Path
from typing import Any

import numpy as np

from perfsuite.errors import UsageError
from perfsuite.files import write_text
from perfsuite.gate import deciding
from perfsuite.gate.speed import Sample, noise
from perfsuite.machine import Machine

SCHEMA = 4  # 3 held one speed of the machine; 2 did not know its speed; 1 held pairs of single runs
PORTABLE_MARGIN = 1.5  # a stage may take up to 2.5 times what it takes over the yardstick elsewhere
LEAST_MARGIN = 0.02  # what a machine that is shared moves by itself from one minute to the next
MOST_REPLICATES = 100  # processes of one entry: an extension drops the oldest beyond
_FINGERPRINT = ("cpu", "cpu_model", "threads", "gpu", "driver", "torch", "cuda")


@dataclass(frozen=True)
class Entry:
    """One subject as it was accepted. ``replicates`` are log-ratios, a row per process."""

    replicates: list[list[float]]
    latency_ms: list[float]  # per process, as are the next two
    yardstick_ms: list[float]  # the speed at which the machine ran: see ``speed``
    phases: dict[str, list[float]]  # over the yardstick's time
    margin: float

    @property
    def sample(self) -> Sample:
        """What others are held against."""
        return Sample(self.replicates, [value / 1e3 for value in self.yardstick_ms])

    @property
    def ratio(self) -> float:
        """The subject's time over the yardstick's."""
        return exp(deciding.location(self.replicates))


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
    profiles = []
    for profile in baselines.profiles:
        made = asdict(profile)
        for name, entry in profile.entries.items():
            made["entries"][name] = {
                "ratio": round(entry.ratio, 3),  # for people: the replicates are what counts
                "margin": round(entry.margin, 4),
                "yardstick_ms": [round(value, 3) for value in entry.yardstick_ms],
                "phases": {
                    phase: [round(share, 4) for share in shares]
                    for phase, shares in entry.phases.items()
                },
                "latency_ms": [round(value, 3) for value in entry.latency_ms],
                "replicates": [[round(value, 4) for value in row] for row in entry.replicates],
            }
        profiles.append(made)
    content = {"schema": SCHEMA, "portable": baselines.portable, "profiles": profiles}
    write_text(path, _lines_of_numbers(json.dumps(content, indent=1, sort_keys=True)) + "\n")


def _lines_of_numbers(text: str) -> str:
    """Put every list of numbers on one line."""
    lines: list[str] = []
    inside = False
    for line in text.split("\n"):
        bare = line.strip()
        if inside:
            lines[-1] += bare if bare.startswith("]") or lines[-1].endswith("[") else f" {bare}"
            inside = not bare.startswith("]")
        else:
            lines.append(line)
            inside = bare.endswith("[") and "replicates" not in bare and "profiles" not in bare
    return "\n".join(lines)


def _profile(data: Mapping[str, Any]) -> Profile:
    return Profile(
        dict(data["machine"]),
        dict(data["workload"]),
        dict(data["recorded"]),
        {name: _entry(entry) for name, entry in data["entries"].items()},
    )


def _entry(data: Mapping[str, Any]) -> Entry:
    replicates = [[_finite(value) for value in row] for row in data["replicates"]]
    if len(replicates) < deciding.MIN_REPLICATES or min(map(len, replicates)) < deciding.MIN_ROUNDS:
        raise ValueError("replicates: too few")
    stored = _positive(data["ratio"])
    if abs(log(stored) - deciding.location(replicates)) > 0.01:
        raise ValueError(f"ratio {stored} is not the replicates' own")
    entry = Entry(
        replicates,
        [_positive(value) for value in data["latency_ms"]],
        [_positive(value) for value in data["yardstick_ms"]],
        {
            str(name): [_finite(share) for share in shares]
            for name, shares in data["phases"].items()
        },
        _positive(data["margin"]),
    )
    per_process = (entry.latency_ms, entry.yardstick_ms, *entry.phases.values())
    if any(len(values) != len(replicates) for values in per_process):
        raise ValueError(
            "replicates, latency_ms, yardstick_ms and phases are of different processes"
        )
    return entry


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _positive(value: object) -> float:
    number = _finite(value)
    if number <= 0:
        raise ValueError(f"{value!r} is not positive")
    return number
