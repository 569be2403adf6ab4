"""One stored run: a file in pytest-benchmark's format, with the gate's figures where it has them.

The gate's figures lie in each benchmark's ``extra_info``, so that pytest-benchmark's own tools read
the same file. A file without them is a history too: of the benchmarks' median seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from perfsuite.errors import UsageError
from perfsuite.gate.reported import Figures
from perfsuite.schema import FieldError, Finite, Positive, decode, read_json, words
from perfsuite.units import counted

HARDWARE = ("cpu", "cpu_model", "cores", "threads", "gpu")
VERSIONS = ("driver", "torch", "cuda", "python", "kernel")
_NO_COMMIT = ("unversioned", "unknown", "")


@dataclass(frozen=True)
class Measurement:
    """One subject in one run.

    ``ratio`` is its time over its reference's, None for a benchmark without one. ``phases`` are over the
    reference's time.
    """

    subject: str
    workload: str
    machine: str  # what a latency depends on and no update changes
    versions: Mapping[str, str]
    seconds: float
    ratio: float | None = None
    verdict: str | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A file: when and of which commit, and what was measured."""

    path: Path
    commit: str  # in full; empty where there is none
    dirty: bool  # with changes that were not committed
    committed: datetime  # the run's own time where there is no commit
    started: datetime
    measurements: tuple[Measurement, ...]
    damaged: tuple[str, ...] = ()  # a line for each benchmark that could not be read
    machine_info: Mapping[str, str] = field(default_factory=dict)  # as pytest-benchmark tells it


def extra_info(
    outcome: Mapping[str, Any],
    *,
    subject: str,
    machine: Mapping[str, Any],
    workload: Mapping[str, Any],
    budgets: Mapping[str, int] | None = None,
    slowed: bool = False,
) -> dict[str, Any]:
    """What the gate puts into a benchmark's ``extra_info`` for ``read_run`` to find.

    ``outcome`` is a gate's outcome as JSON, ``machine`` a ``perfsuite.machine.fingerprint``. A subject
    ``slowed`` on purpose is stored like any other, and left out of the history.
    """
    kept = {name: value for name, value in outcome.items() if name != "name"}
    return {
        **kept,
        "subject": subject,
        "machine": dict(machine),
        "workload": dict(workload),
        "budgets": dict(budgets or {}),
        "slowed": slowed,
    }


class _Commit(Struct, frozen=True):
    id: str | None = None
    time: str | None = None
    dirty: Any = None


class _File(Struct, frozen=True):
    """What pytest-benchmark writes. Each benchmark is read by itself: one that is damaged costs no other."""

    commit_info: _Commit
    datetime: str
    machine_info: dict[str, Any]
    benchmarks: tuple[Any, ...]


class _Benchmark(Struct, frozen=True):
    name: str
    fullname: str | None = None
    param: str | None = None
    stats: dict[str, Any] | None = None
    extra_info: dict[str, Any] = {}

    @property
    def left_out(self) -> bool:
        """What was slowed on purpose, and what the gate judged without a single undisturbed round."""
        told = self.extra_info
        unmeasured = told.get("ratio") is None or str(told["ratio"]) == "nan"
        return told.get("slowed") is True or (told.get("verdict") is not None and unmeasured)


class _Stats(Struct, frozen=True):
    median: Positive


class _Figures(Figures, frozen=True, kw_only=True):
    """The gate's figures."""

    subject: str | None = None
    workload: dict[str, Any] | None = None
    ratio: Positive
    budgets: dict[str, Finite | None] | None = None

    def __post_init__(self) -> None:
        if self.seconds is None:
            raise FieldError("latency_s", "is missing")


def read_run(path: Path) -> Run:
    """Read one file. Raises UsageError, naming file and place, for what pytest-benchmark did not write."""
    return parse_run(read_json(path), path)


def parse_run(content: Any, path: Path) -> Run:
    """The run that ``content`` holds; ``path`` is only noted. Raises UsageError naming the place."""
    file = decode(content, _File, str(path))
    commit = file.commit_info
    started = _moment(file.datetime, f"{path}: datetime")
    known = "" if commit.id is None or commit.id in _NO_COMMIT else commit.id
    committed = started
    if commit.time is not None and known:
        committed = _moment(commit.time, f"{path}: commit_info.time")
    measurements, damaged = _measurements(file, str(path))
    return Run(
        path=path,
        commit=known,
        dirty=commit.dirty is True,
        committed=committed,
        started=started,
        measurements=measurements,
        damaged=damaged,
        machine_info=words(file.machine_info),
    )


def _measurements(file: _File, place: str) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    """Return what the benchmarks measured, and a line for each that is damaged, unless all are."""
    found: list[tuple[Measurement, str]] = []
    damaged: list[str] = []
    for number, content in enumerate(file.benchmarks):
        below = f"benchmarks[{number}]"
        try:
            benchmark = decode(content, _Benchmark, place, below)
            if not benchmark.left_out:
                measurement = _measurement(benchmark, file, place, below)
                found.append((measurement, benchmark.fullname or benchmark.name))
        except UsageError as error:
            damaged.append(str(error))
    if damaged and not found:
        raise UsageError(damaged[0])
    # Two tests may give one name to what they measure; together they would be no series.
    names = Counter(_key(measurement) for measurement, _ in found)
    told_apart = (
        replace(measurement, subject=full_name) if names[_key(measurement)] > 1 else measurement
        for measurement, full_name in found
    )
    return tuple(told_apart), tuple(damaged)


def _key(measurement: Measurement) -> tuple[object, ...]:
    is_ratio = measurement.ratio is not None
    return measurement.subject, measurement.workload, measurement.machine, is_ratio


def _measurement(benchmark: _Benchmark, file: _File, place: str, below: str) -> Measurement:
    machine, versions = _machine(benchmark, file, place, below)
    if benchmark.extra_info.get("ratio") is None:
        stats = decode(benchmark.stats, _Stats, place, f"{below}.stats")
        name = benchmark.fullname or benchmark.name
        return Measurement(name, "", machine, versions, stats.median)
    figures = decode(benchmark.extra_info, _Figures, place, f"{below}.extra_info")
    return Measurement(
        subject=figures.subject or benchmark.param or benchmark.name,
        workload=_workload(words(figures.workload or {})),
        machine=machine,
        versions=versions,
        seconds=figures.seconds or 0.0,
        ratio=figures.ratio,
        verdict=figures.verdict,
        phases=figures.known_phases,
        budgets={
            name: int(one) for name, one in (figures.budgets or {}).items() if one is not None
        },
    )


def _workload(told: dict[str, str]) -> str:
    parts = [
        told.pop("model", ""),
        f"{tokens} tokens" if (tokens := told.pop("tokens", "")) else "",
    ]
    return ", ".join(part for part in (*parts, *told.values()) if part)


def _machine(
    benchmark: _Benchmark, file: _File, place: str, below: str
) -> tuple[str, dict[str, str]]:
    """Return a machine in a line, and what runs on it."""
    fingerprint = benchmark.extra_info.get("machine")
    if fingerprint is None:
        return _foreign_machine(file.machine_info)
    told = words(decode(fingerprint, dict[str, Any], place, f"{below}.extra_info.machine"))
    return _described(told), {name: told[name] for name in VERSIONS if name in told}


def _described(told: Mapping[str, str]) -> str:
    parts = [told.get("cpu", "")]
    if "cpu_model" in told:
        parts[0] += f" ({told['cpu_model']})"
    parts += [counted(told[name], name[:-1]) for name in ("cores", "threads") if name in told]
    parts.append(told.get("gpu", ""))
    return ", ".join(part for part in parts if part)


def _foreign_machine(machine_info: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Processor and Python as pytest-benchmark describes them; hosted machines change their names."""
    told = words(machine_info)
    processor = machine_info.get("cpu")
    cpu = words(processor) if isinstance(processor, dict) else {}
    name = cpu.get("brand_raw") or cpu.get("brand") or told.get("processor") or told.get("machine")
    cores = f", {cpu['count']} cores" if "count" in cpu else ""
    versions = {"python": told.get("python_version", ""), "kernel": told.get("release", "")}
    return f"{name or 'unknown machine'}{cores}", {k: v for k, v in versions.items() if v}


def _moment(text: str, place: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{place}: must be a date and time") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
