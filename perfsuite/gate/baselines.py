"""``baselines.json``: what each benchmark took when somebody accepted it.

An entry is a benchmark on one machine with one workload. Nothing is stored that follows from something else.

The file is JSON that git can merge: a list with a line for each record. A benchmark's line is followed by those
of its recordings, and each of these by its processes'. Between the entries stand ``TABS`` texts, "000" to "3ff",
which never change: an entry stands before the tab that a hash of its benchmark, machine and workload names. Two
branches that record different entries therefore change places with an unchanged line in between, and git merges
them without help. Only where two new entries share a tab, which one pair in ``TABS`` does, git asks; keeping the
lines of both sides is then right, since no line closes or continues another.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct
from msgspec.structs import asdict

from perfsuite.errors import UsageError
from perfsuite.files import locked, write_text
from perfsuite.gate.process import Process
from perfsuite.schema import (
    AtLeastOne,
    Count,
    Finite,
    NotNegative,
    Positive,
    decode,
    parse_json,
)

SCHEMA = 6
READ_TOO = 5  # a list of rounds per process, entries in profiles
LEAST_PROCESSES = 3  # of an entry: fewer say nothing of the spread between them
MOST_PROCESSES = 288  # of an entry: eight recordings of 36
TABS = 1024
DIGITS = 6  # significant, of every figure that was measured

_ABOUT = (
    "Written by perfsuite; see perfsuite baselines --help. The short texts between the entries keep "
    "them apart, so that git merges branches which record different benchmarks."
)
_MARKER = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?= |$)", re.MULTILINE)

Scalar: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class Recording:
    """What was accepted at once. ``recorded`` holds "commit", "date" (ISO, to the minute) and versions."""

    recorded: Mapping[str, str]
    processes: Sequence[Process]


class Plan(Struct, frozen=True):
    """How each process was measured. A run is so many calls (loops) in a row."""

    loops: AtLeastOne
    reference_loops: AtLeastOne
    runs: AtLeastOne  # of either, per round
    rounds: AtLeastOne
    discarded: Count  # runs before the first that counts


@dataclass(frozen=True)
class Entry:
    """One benchmark on one machine with one workload, as it was accepted. All processes know the same phases."""

    name: str
    machine: Mapping[str, Scalar]
    workload: Mapping[str, Scalar]
    reference: str  # a built-in one's name, or "own"
    code: str  # hash of the benchmark's code and of the reference; empty where it is not known
    plan: Plan | None
    quantile: float | None  # of the calls, that is judged; None: the median
    recordings: Sequence[Recording]  # oldest first

    @property
    def processes(self) -> list[Process]:
        """Those of all recordings, oldest first."""
        return [process for recording in self.recordings for process in recording.processes]

    @property
    def ratio(self) -> float:
        """The subject's time over the reference's, the median over processes."""
        return math.exp(median(process.log_ratio for process in self.processes))

    @property
    def subject_s(self) -> float:
        """Seconds of a call, the median over processes."""
        return median(process.subject_s for process in self.processes)


class Baselines:
    """The file's content. What changes it is written at once: see ``record``."""

    def __init__(self, path: Path, entries: Iterable[Entry] = ()) -> None:
        """Hold ``entries``, which are ``path``'s."""
        self.path = path
        self._entries = {
            _key(entry.name, entry.machine, entry.workload): entry for entry in entries
        }

    @classmethod
    def read(cls, path: Path) -> Baselines:
        """Read the file, of this schema or of the one before; one that does not exist is empty.

        Raises:
            UsageError: naming the place in the file, if it is damaged or of another schema.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"{path}: cannot be read: {reason}") from error
        return cls(path, parse(text, str(path)))

    @property
    def entries(self) -> list[Entry]:
        """Every entry: sorted by benchmark, then by machine and workload."""
        return [self._entries[key] for key in sorted(self._entries)]

    @property
    def names(self) -> set[str]:
        """The benchmarks that are stored for any machine."""
        return {entry.name for entry in self._entries.values()}

    def find(
        self, name: str, machine: Mapping[str, Scalar], workload: Mapping[str, Scalar]
    ) -> Entry | None:
        """Return the entry of this very machine and workload; what is None counts as not there."""
        return self._entries.get(_key(name, machine, workload))

    def others(self, name: str, workload: Mapping[str, Scalar]) -> list[Entry]:
        """Return what is stored of ``name`` with this workload, whatever the machine."""
        return [
            entry
            for entry in self.entries
            if entry.name == name and _known(entry.workload) == _known(workload)
        ]

    def closest(
        self, name: str, machine: Mapping[str, Scalar], workload: Mapping[str, Scalar]
    ) -> tuple[Entry, list[str]] | None:
        """Return the entry of ``name`` that differs in the fewest fields of machine and workload, and those.

        Fields are named as "machine.cpu"; None where nothing is stored of ``name``.
        """
        found = [
            (
                entry,
                [f"machine.{field}" for field in _differing(entry.machine, machine)]
                + [f"workload.{field}" for field in _differing(entry.workload, workload)],
            )
            for entry in self.entries
            if entry.name == name
        ]
        return min(found, key=lambda pair: len(pair[1]), default=None)

    def portable_ratio(
        self, name: str, workload: Mapping[str, Scalar], reference: str | None = None
    ) -> float | None:
        """Return the median ratio over all machines; None where none is stored.

        Args:
            name: The benchmark.
            workload: Of the entries that count.
            reference: Only entries with this one count, since others' ratios mean something else.
        """
        ratios = [
            entry.ratio
            for entry in self.others(name, workload)
            if reference is None or entry.reference == reference
        ]
        return math.exp(median(map(math.log, ratios))) if ratios else None

    def record(self, *entries: Entry) -> None:
        """Store ``entries`` in place of those of the same benchmarks, machines and workloads.

        The file is read again first, in a lock, so that what others wrote meanwhile stays.

        Raises:
            UsageError: naming benchmark and field, if an entry holds what cannot be judged: nothing is written
                then. Also if the file is damaged, or cannot be written.
        """

        def change(stored: dict[str, Entry]) -> None:
            for entry in map(_checked, entries):
                stored[_key(entry.name, entry.machine, entry.workload)] = _limited(entry)

        self._update(change)

    def extend(self, entry: Entry) -> None:
        """Add the recordings of ``entry``, of the same code, to those that are stored; else as ``record``.

        Raises:
            UsageError: also if what is stored was measured of other code, or otherwise.
        """

        def change(stored: dict[str, Entry]) -> None:
            added = _checked(entry, least=1)
            key = _key(added.name, added.machine, added.workload)
            stored[key] = _limited(
                _extended(stored[key], added) if key in stored else _checked(added)
            )

        self._update(change)

    def rename(self, old: str, new: str) -> int:
        """Let benchmark ``old`` be called ``new`` on every machine; return how many entries that were.

        Raises:
            UsageError: also if there is no ``old``, or a ``new`` already.
        """
        renamed = 0

        def change(stored: dict[str, Entry]) -> None:
            nonlocal renamed
            names = {entry.name for entry in stored.values()}
            if old not in names:
                raise UsageError(f"{self.path}: no benchmark is called {old!r}")
            if new in names:
                raise UsageError(f"{self.path}: a benchmark is called {new!r} already")
            for key, entry in list(stored.items()):
                if entry.name == old:
                    moved = _checked(replace(entry, name=new))
                    del stored[key]
                    stored[_key(new, entry.machine, entry.workload)] = moved
                    renamed += 1

        self._update(change)
        return renamed

    def remove(self, names: Collection[str]) -> int:
        """Forget these benchmarks on every machine; return how many entries that were.

        Raises:
            UsageError: if the file is damaged, or cannot be written.
        """
        removed = 0

        def change(stored: dict[str, Entry]) -> None:
            nonlocal removed
            for key, entry in list(stored.items()):
                if entry.name in names:
                    del stored[key]
                    removed += 1

        self._update(change)
        return removed

    def _update(self, change: Callable[[dict[str, Entry]], None]) -> None:
        """Apply ``change`` to what the file holds by now, and write that whole or not at all."""
        with locked(self.path):
            entries = Baselines.read(self.path)._entries
            change(entries)
            text = _text(entries)
            # What is kept here is what a reader gets, and nothing is written that cannot be read.
            self._entries = Baselines(self.path, parse(text, str(self.path)))._entries
            write_text(self.path, text)


def parse(text: str, place: str) -> list[Entry]:
    """Return the entries of a file's text, of this schema or of the one before.

    Raises:
        UsageError: after ``place``, naming what is damaged, missing, or of another schema.
    """
    marker = _MARKER.search(text)
    if marker is not None:
        line = text.count("\n", 0, marker.start()) + 1
        raise UsageError(
            f"{place}: has merge conflict markers at line {line}: remove them, and keep the lines of both sides "
            "where these are of different benchmarks, of one side where they are of the same"
        )
    content = parse_json(text, place, _object)
    if not isinstance(content, dict) or type(content.get("schema")) is not int:
        raise UsageError(f"{place}: is damaged: it has no schema: these are no baselines")
    schema = content["schema"]
    if schema > SCHEMA:
        raise UsageError(
            f"{place}: schema {schema} is of a newer version, this one reads {SCHEMA}: use that version"
        )
    if schema < READ_TOO:
        raise UsageError(
            f"{place}: schema {schema} is of an older version, this one reads {READ_TOO} and {SCHEMA}: "
            "remove the file, and record anew with --update-baselines"
        )
    read = _read_5 if schema == READ_TOO else _read_6
    found: dict[str, Entry] = {}
    for entry in read(content, place):
        key = _key(entry.name, entry.machine, entry.workload)
        if key in found:
            raise UsageError(
                f"{place}: benchmark {entry.name!r}: is there twice for one machine and workload: keep one"
            )
        found[key] = entry
    return list(found.values())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
    return found


def _known(conditions: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {name: value for name, value in conditions.items() if value is not None}


def _differing(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _key(name: str, machine: Mapping[str, Scalar], workload: Mapping[str, Scalar]) -> str:
    return json.dumps([name, _known(machine), _known(workload)], sort_keys=True)


def _extended(stored: Entry, added: Entry) -> Entry:
    place = f"{added.name}: not extended:"
    for field in ("code", "reference", "quantile"):
        before, now = getattr(stored, field), getattr(added, field)
        if before != now and not (field == "code" and "" in (before, now)):
            what = (
                "of other code" if field == "code" else f"with {field} {before}, this is with {now}"
            )
            raise UsageError(f"{place} what is stored was measured {what}; use --update-baselines")
    if _phases(stored) != _phases(added):
        raise UsageError(f"{place} the stored phases are of other code; use --update-baselines")
    return replace(
        stored,
        code=stored.code or added.code,
        plan=stored.plan or added.plan,
        recordings=(*stored.recordings, *added.recordings),
    )


def _limited(entry: Entry) -> Entry:
    """Return ``entry`` with ``MOST_PROCESSES`` at most.

    The oldest recordings go first, except the very oldest: a creep over many extensions shows against that.
    """
    first, *later = entry.recordings
    while len(later) > 1 and _count(first, *later) > MOST_PROCESSES:
        later.pop(0)
    # Two that are too many by themselves share the room.
    room = MOST_PROCESSES - min(_count(*later), MOST_PROCESSES // 2) if later else MOST_PROCESSES
    first = replace(first, processes=first.processes[:room])
    later = [
        replace(one, processes=one.processes[: MOST_PROCESSES - _count(first)]) for one in later
    ]
    return replace(entry, recordings=(first, *later))


def _count(*recordings: Recording) -> int:
    return sum(len(recording.processes) for recording in recordings)


def _phases(entry: Entry) -> set[str]:
    return set(entry.processes[0].phases)


# The file as it is written

Scalars = dict[str, bool | str | int | Finite | None]
Quantile = Annotated[float, Meta(ge=0.5, lt=1)]


class _Process(Struct, frozen=True):
    """A process' line. What there is nothing to say of is left out."""

    ratio: Positive
    subject_s: Positive
    reference_s: Positive
    rounds: Count
    server: str | None = None
    phases: dict[str, NotNegative] | None = None
    peak_bytes: AtLeastOne | None = None
    disturbed: Count | None = None


class _Recording(Struct, frozen=True):
    """A recording's line, which names its benchmark, and the lines that follow it.

    With the name no line of one benchmark is also another's: git would take it for both's.
    """

    of: str
    recorded: dict[str, str]
    processes: Annotated[tuple[_Process, ...], Meta(min_length=1)]


class _Entry(Struct, frozen=True):
    """A benchmark's line, and the lines that follow it."""

    benchmark: str
    machine: Scalars
    workload: Scalars
    reference: str
    recordings: tuple[_Recording, ...]
    code: str | None = None
    plan: Plan | None = None
    quantile: Quantile | None = None


class _File(Struct, frozen=True):
    """The lines: a text is a tab."""

    entries: tuple[str | dict[str, Any], ...]


def _stored(entry: Entry) -> _Entry:
    return _Entry(
        benchmark=entry.name,
        machine=dict(entry.machine),
        workload=dict(entry.workload),
        reference=entry.reference,
        recordings=tuple(
            _Recording(entry.name, dict(one.recorded), tuple(map(_stored_process, one.processes)))
            for one in entry.recordings
        ),
        code=entry.code or None,
        plan=entry.plan,
        quantile=entry.quantile,
    )


def _stored_process(process: Process) -> _Process:
    return _Process(
        ratio=_rounded(_exp(process.log_ratio)),
        subject_s=_rounded(process.subject_s),
        reference_s=_rounded(process.reference_s),
        rounds=process.rounds,
        server=process.server or None,
        phases={name: _rounded(share) for name, share in process.phases.items()} or None,
        peak_bytes=process.peak_bytes,
        disturbed=process.disturbed or None,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _text(entries: Mapping[str, Entry]) -> str:
    """Return the file: its tabs, and each entry before the tab that its key names."""
    by_tab: dict[int, list[str]] = {}
    for key in sorted(entries):
        by_tab.setdefault(_tab(key), []).extend(_lines(_stored(entries[key])))
    lines = [line for tab in range(TABS) for line in (*by_tab.get(tab, []), f'"{tab:03x}"')]
    head = f'{{"about": {json.dumps(_ABOUT)}, "schema": {SCHEMA}, "entries": ['
    return "\n".join([head, ",\n".join(lines), "]}"]) + "\n"


def _tab(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % TABS


def _lines(entry: _Entry) -> Iterator[str]:
    yield _line(entry, "recordings")
    for recording in entry.recordings:
        yield _line(recording, "processes")
        yield from map(_line, recording.processes)


def _line(record: Struct, below: str = "") -> str:
    """Return a record as JSON, without what lies ``below`` it, in lines of its own."""
    fields = {name: value for name, value in _fields(record).items() if name != below}
    return json.dumps(fields, default=_fields, sort_keys=True)


def _fields(record: Struct) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if value is not None}


# Reading


def _checked(entry: Entry, least: int = LEAST_PROCESSES) -> Entry:
    """Return ``entry`` as a reader will find it.

    Raises:
        UsageError: naming benchmark and field, for what a reader would refuse.
    """
    return _written(entry, f"{entry.name}: not recorded", least)


def _written(entry: Entry, place: str, least: int = LEAST_PROCESSES) -> Entry:
    content = json.loads(json.dumps(_stored(entry), default=_fields))
    return _entry(content, place, least)


def _read_6(content: dict[str, Any], place: str) -> list[Entry]:
    return [
        _entry(one, f"{place}: benchmark {one['benchmark']!r}") for one in _joined(content, place)
    ]


def _joined(content: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Return a benchmark's lines as one object each."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(decode(content, _File, place).entries):
        if isinstance(line, str):
            continue
        if line.get("benchmark") is not None:
            found.append({**line, "recordings": []})
            continue
        if not found:
            raise UsageError(f"{place}: entries[{number}]: belongs to no benchmark")
        recordings = found[-1]["recordings"]
        if "recorded" in line:
            recordings.append({**line, "processes": []})
        elif recordings:
            recordings[-1]["processes"].append(line)
        else:
            name = found[-1]["benchmark"]
            raise UsageError(
                f"{place}: benchmark {name!r}: recordings: are missing before the first process"
            )
    return found


def _entry(content: dict[str, Any], place: str, least: int = LEAST_PROCESSES) -> Entry:
    stored = decode(content, _Entry, place)
    _check(stored, place, least)
    return Entry(
        name=stored.benchmark,
        machine=stored.machine,
        workload=stored.workload,
        reference=stored.reference,
        code=stored.code or "",
        plan=stored.plan,
        quantile=stored.quantile,
        recordings=tuple(
            Recording(one.recorded, tuple(map(_process, one.processes)))
            for one in stored.recordings
        ),
    )


def _check(stored: _Entry, place: str, least: int) -> None:
    """Raise UsageError, after ``place``, for what no type refuses."""
    name = stored.benchmark
    if not name.strip() or not name.isprintable():
        raise UsageError(f"{place}: benchmark: {name!r}: must be a printable text in one line")
    for number, recording in enumerate(stored.recordings):
        if recording.of != name:
            raise UsageError(
                f"{place}: recordings[{number}].of: is of another benchmark than the one above it"
            )
    processes = [one for recording in stored.recordings for one in recording.processes]
    if len(processes) < least:
        raise UsageError(f"{place}: processes: {len(processes)} are too few, {least} are the least")
    if len({frozenset(one.phases or ()) for one in processes}) > 1:
        raise UsageError(f"{place}: processes: they know different phases")


def _process(stored: _Process) -> Process:
    return Process(
        log_ratio=math.log(stored.ratio),
        subject_s=stored.subject_s,
        reference_s=stored.reference_s,
        server=stored.server or "",
        phases=stored.phases or {},
        peak_bytes=stored.peak_bytes,
        rounds=stored.rounds,
        disturbed=stored.disturbed or 0,
    )


# The schema before


class _Process5(Struct, frozen=True):
    """A process with the logarithm of each round's ratio."""

    rounds: Annotated[tuple[Finite, ...], Meta(min_length=1)]
    latency_ms: Positive
    yardstick_ms: Positive
    phases: dict[str, NotNegative]


class _Entry5(Struct, frozen=True):
    """A benchmark. Its margin and its ratio follow from the rest."""

    processes: tuple[_Process5, ...]


class _Profile5(Struct, frozen=True):
    """What was recorded at once, by benchmark."""

    machine: Scalars
    workload: Scalars
    recorded: dict[str, str]
    entries: dict[str, _Entry5]


class _File5(Struct, frozen=True):
    """All profiles."""

    profiles: tuple[_Profile5, ...]


def _read_5(content: dict[str, Any], place: str) -> list[Entry]:
    entries = []
    for profile in decode(content, _File5, place).profiles:
        for name, stored in profile.entries.items():
            entry = Entry(
                name=name,
                machine=profile.machine,
                workload=profile.workload,
                reference="own",
                code="",
                plan=None,
                quantile=None,
                recordings=(
                    Recording(profile.recorded, tuple(map(_process_of_5, stored.processes))),
                ),
            )
            # Nothing changes when it is written.
            entries.append(_written(entry, f"{place}: benchmark {name!r}"))
    return entries


def _process_of_5(stored: _Process5) -> Process:
    return Process(
        log_ratio=median(stored.rounds),
        subject_s=stored.latency_ms / 1e3,
        reference_s=stored.yardstick_ms / 1e3,
        phases=stored.phases,
        rounds=len(stored.rounds),
    )
