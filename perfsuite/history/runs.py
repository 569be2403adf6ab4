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

from perfsuite.errors import UsageError
from perfsuite.fields import Field, read_json

HARDWARE = ("cpu", "cpu_model", "cores", "threads", "gpu")
VERSIONS = ("driver", "torch", "cuda", "python", "kernel")
_NO_COMMIT = ("unversioned", "unknown", "")


@dataclass(frozen=True)
class Measurement:
    """One subject in one run.

    ``ratio`` is its time over its yardstick's and ``low`` to ``high`` the interval of it, None for a
    benchmark without a yardstick. ``phases`` are over the yardstick's time.
    """

    subject: str
    workload: str
    machine: str  # what a latency depends on and no update changes
    versions: Mapping[str, str]
    seconds: float
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
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


def read_run(path: Path) -> Run:
    """Read one file. Raises UsageError, naming file and place, for what pytest-benchmark did not write."""
    return parse_run(read_json(path), path)


def parse_run(document: Field, path: Path) -> Run:
    """The run that ``document`` holds; ``path`` is only noted. Raises UsageError naming the place."""
    commit = document.need("commit_info")
    started = _moment(document.need("datetime"))
    committed = commit.get("time")
    identity = commit.get("id")
    known = "" if identity is None or identity.text() in _NO_COMMIT else identity.text()
    dirty = commit.get("dirty")
    measurements, damaged = _measurements(document)
    return Run(
        path=path,
        commit=known,
        dirty=dirty is not None and dirty.value is True,
        committed=started if committed is None or not known else _moment(committed),
        started=started,
        measurements=measurements,
        damaged=damaged,
    )


def _measurements(document: Field) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    """Return what the benchmarks measured, and a line for each that is damaged, unless all are."""
    machine_info = document.need("machine_info")
    found: list[tuple[Measurement, str]] = []
    damaged: list[str] = []
    for benchmark in document.need("benchmarks").items():
        try:
            if not _left_out(benchmark):
                found.append((_measurement(benchmark, machine_info), _full_name(benchmark)))
        except UsageError as error:
            damaged.append(str(error))
    if damaged and not found:
        raise UsageError(damaged[0])
    # Two tests may give one name to what they measure; together they would be no series.
    names = Counter(map(_key, (measurement for measurement, _ in found)))
    told_apart = (
        replace(measurement, subject=full_name) if names[_key(measurement)] > 1 else measurement
        for measurement, full_name in found
    )
    return tuple(told_apart), tuple(damaged)


def _key(measurement: Measurement) -> tuple[object, ...]:
    is_ratio = measurement.ratio is not None
    return measurement.subject, measurement.workload, measurement.machine, is_ratio


def _left_out(benchmark: Field) -> bool:
    """What was slowed on purpose, and what the gate judged without a single undisturbed round."""
    extra = benchmark.get("extra_info")
    if extra is None:
        return False
    slowed, ratio = extra.get("slowed"), extra.get("ratio")
    if extra.get("verdict") is not None and (ratio is None or str(ratio.value) == "nan"):
        return True
    return slowed is not None and slowed.value is True


def _measurement(benchmark: Field, machine_info: Field) -> Measurement:
    extra = benchmark.get("extra_info") or Field({}, f"{benchmark.place}.extra_info")
    ours = extra.get("ratio")
    fingerprint = extra.get("machine")
    if fingerprint is None:
        machine, versions = _foreign_machine(machine_info)
    else:
        words = fingerprint.words()
        machine = _described(words)
        versions = {name: words[name] for name in VERSIONS if name in words}
    if ours is None:
        median = benchmark.need("stats").need("median").positive()
        return Measurement(_full_name(benchmark), "", machine, versions, median)
    ratio = ours.positive()
    low, high = _interval(extra, ratio)
    verdict, phases, budgets = (extra.get(name) for name in ("verdict", "phases", "budgets"))
    return Measurement(
        subject=_subject(benchmark, extra),
        workload=_workload(extra),
        machine=machine,
        versions=versions,
        seconds=extra.need("latency_ms").positive() / 1e3,
        ratio=ratio,
        low=low,
        high=high,
        verdict=verdict.text() if verdict else None,
        phases={name: item.number() for name, item in phases.mapping().items()} if phases else {},
        budgets={name: int(item.number()) for name, item in budgets.mapping().items()}
        if budgets
        else {},
    )


def _full_name(benchmark: Field) -> str:
    return (benchmark.get("fullname") or benchmark.need("name")).text()


def _subject(benchmark: Field, extra: Field) -> str:
    named = extra.get("subject") or benchmark.get("param") or benchmark.need("name")
    return named.text()


def _workload(extra: Field) -> str:
    workload = extra.get("workload")
    if workload is None:
        return ""
    words = workload.words()
    parts = [
        words.pop("model", ""),
        f"{tokens} tokens" if (tokens := words.pop("tokens", "")) else "",
    ]
    return ", ".join(part for part in (*parts, *words.values()) if part)


def _interval(extra: Field, ratio: float) -> tuple[float | None, float | None]:
    """The ratio's interval, from the one of the change against what was stored."""
    change, ends = extra.get("change"), extra.get("change_interval")
    if change is None or ends is None:
        return None, None
    stored = ratio / change.positive()
    low, high = ends.interval()
    return low * stored, high * stored


def _described(words: Mapping[str, str]) -> str:
    parts = [words.get("cpu", "")]
    if "cpu_model" in words:
        parts[0] += f" ({words['cpu_model']})"
    parts += [f"{words[name]} {name}" for name in ("cores", "threads") if name in words]
    parts.append(words.get("gpu", ""))
    return ", ".join(part for part in parts if part)


def _foreign_machine(machine_info: Field) -> tuple[str, dict[str, str]]:
    """Processor and Python as pytest-benchmark describes them; hosted machines change their names."""
    words = machine_info.words()
    processor = machine_info.get("cpu")
    cpu = processor.words() if processor is not None and isinstance(processor.value, dict) else {}
    name = (
        cpu.get("brand_raw") or cpu.get("brand") or words.get("processor") or words.get("machine")
    )
    cores = f", {cpu['count']} cores" if "count" in cpu else ""
    versions = {"python": words.get("python_version", ""), "kernel": words.get("release", "")}
    return f"{name or 'unknown machine'}{cores}", {k: v for k, v in versions.items() if v}


def _moment(stamp: Field) -> datetime:
    try:
        moment = datetime.fromisoformat(stamp.text())
    except ValueError as error:
        raise UsageError(f"{stamp.place}: must be a date and time") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
