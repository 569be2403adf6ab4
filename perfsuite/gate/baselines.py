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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from perfsuite.errors import UsageError
from perfsuite.fields import Field
from perfsuite.files import locked, write_text
from perfsuite.gate.process import Process

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


@dataclass(frozen=True)
class Plan:
    """How each process was measured. A run is so many calls (loops) in a row."""

    loops: int
    reference_loops: int
    runs: int  # of either, per round
    rounds: int
    discarded: int  # runs before the first that counts


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
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: is damaged: {error}") from error
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
    for entry in read(Field(content, f"{place}:")):
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


# Writing


def _text(entries: Mapping[str, Entry]) -> str:
    """Return the file: its tabs, and each entry before the tab that its key names."""
    by_tab: dict[int, list[str]] = {}
    for key in sorted(entries):
        records = _records(entries[key])
        by_tab.setdefault(_tab(key), []).extend(json.dumps(one, sort_keys=True) for one in records)
    lines = [line for tab in range(TABS) for line in (*by_tab.get(tab, []), f'"{tab:03x}"')]
    head = f'{{"about": {json.dumps(_ABOUT)}, "schema": {SCHEMA}, "entries": ['
    return "\n".join([head, ",\n".join(lines), "]}"]) + "\n"


def _tab(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % TABS


def _records(entry: Entry) -> list[dict[str, Any]]:
    """Return what is written of ``entry``, one object a line; what is not there is left out."""
    head = {
        "benchmark": entry.name,
        "machine": dict(entry.machine),
        "workload": dict(entry.workload),
        "code": entry.code or None,
        "plan": None if entry.plan is None else vars(entry.plan),
        "quantile": entry.quantile,
        "reference": entry.reference,
    }
    records = [{name: value for name, value in head.items() if value is not None}]
    for recording in entry.recordings:
        # With the name, so that no line of one benchmark is also another's: git would take it for both's.
        records.append({"of": entry.name, "recorded": dict(recording.recorded)})
        records += map(_process_as_json, recording.processes)
    return records


def _process_as_json(process: Process) -> dict[str, Any]:
    """Return what is written of it; what is not there is left out."""
    written: dict[str, Any] = {
        "ratio": _rounded(_exp(process.log_ratio)),
        "subject_s": _rounded(process.subject_s),
        "reference_s": _rounded(process.reference_s),
        "server": process.server,
        "phases": {name: _rounded(share) for name, share in process.phases.items()},
        "peak_bytes": process.peak_bytes,
        "rounds": process.rounds,
        "disturbed": process.disturbed or None,
    }
    return {name: value for name, value in written.items() if value not in ("", None, {})}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


# Reading


def _checked(entry: Entry, least: int = LEAST_PROCESSES) -> Entry:
    """Return ``entry`` as a reader will find it.

    Raises:
        UsageError: naming benchmark and field, for what a reader would refuse.
    """
    return _entry(_records(entry), f"{entry.name}: not recorded:", least)


def _read_6(content: Field) -> list[Entry]:
    groups: list[tuple[str, list[object]]] = []
    for field in content.need("entries").items():
        if isinstance(field.value, str):
            continue  # a tab
        head = field.get("benchmark")
        if head is not None:
            groups.append((_name(head), []))
        elif not groups:
            raise UsageError(f"{field.place}: belongs to no benchmark")
        groups[-1][1].append(field.value)
    return [_entry(records, f"{content.place} benchmark {name!r}:") for name, records in groups]


def _entry(records: Sequence[object], place: str, least: int = LEAST_PROCESSES) -> Entry:
    head = Field(records[0], place)
    name = _name(head.need("benchmark"))
    code, plan, quantile = (head.get(field) for field in ("code", "plan", "quantile"))
    if quantile is not None and not 0.5 <= quantile.number() < 1:
        raise UsageError(f"{quantile.place}: must lie in [0.5, 1)")
    recordings = _recordings(name, records[1:], place)
    count = _count(*recordings)
    if count < least:
        raise UsageError(f"{place} processes: {count} are too few, {least} are the least")
    entry = Entry(
        name=name,
        machine=_scalars(head.need("machine")),
        workload=_scalars(head.need("workload")),
        reference=head.need("reference").text(),
        code="" if code is None else code.text(),
        plan=None if plan is None else _plan(plan),
        quantile=None if quantile is None else quantile.number(),
        recordings=tuple(recordings),
    )
    if any(process.phases.keys() != _phases(entry) for process in entry.processes):
        raise UsageError(f"{place} processes: they know different phases")
    return entry


def _recordings(name: str, records: Iterable[object], place: str) -> list[Recording]:
    found: list[tuple[dict[str, str], list[Process]]] = []
    for record in records:
        if isinstance(record, dict) and "recorded" in record:
            field = Field(record, f"{place} recordings[{len(found)}]")
            if field.need("of").text() != name:
                raise UsageError(f"{field.place}.of: is of another benchmark than the one above it")
            found.append(
                ({key: item.text() for key, item in field.need("recorded").mapping().items()}, [])
            )
        elif not found:
            raise UsageError(f"{place} recordings: are missing before the first process")
        else:
            processes = found[-1][1]
            where = f"{place} recordings[{len(found) - 1}].processes[{len(processes)}]"
            processes.append(_process(Field(record, where)))
    for number, (_, processes) in enumerate(found):
        if not processes:
            raise UsageError(f"{place} recordings[{number}].processes: there are none")
    return [Recording(recorded, tuple(processes)) for recorded, processes in found]


def _process(field: Field) -> Process:
    server, phases, peak, disturbed = (
        field.get(name) for name in ("server", "phases", "peak_bytes", "disturbed")
    )
    return Process(
        log_ratio=math.log(field.need("ratio").positive()),
        subject_s=field.need("subject_s").positive(),
        reference_s=field.need("reference_s").positive(),
        server="" if server is None else server.text(),
        phases={} if phases is None else _shares(phases),
        peak_bytes=None if peak is None else _integer(peak, least=1),
        rounds=_integer(field.need("rounds")),
        disturbed=0 if disturbed is None else _integer(disturbed),
    )


def _plan(field: Field) -> Plan:
    loops, reference_loops, runs, rounds = (
        _integer(field.need(name), least=1)
        for name in ("loops", "reference_loops", "runs", "rounds")
    )
    return Plan(loops, reference_loops, runs, rounds, _integer(field.need("discarded")))


def _read_5(content: Field) -> list[Entry]:
    """Read the schema before this one: its margins and portable ratios follow from the rest."""
    entries = []
    for profile in content.need("profiles").items():
        machine, workload = (_scalars(profile.need(name)) for name in ("machine", "workload"))
        recorded = {name: item.text() for name, item in profile.need("recorded").mapping().items()}
        for name, field in profile.need("entries").mapping().items():
            _name(Field(name, field.place))
            processes = [_process_of_5(process) for process in field.need("processes").items()]
            entry = Entry(
                name=name,
                machine=machine,
                workload=workload,
                reference="own",
                code="",
                plan=None,
                quantile=None,
                recordings=(Recording(recorded, tuple(processes)),),
            )
            # As it would be read once it is written: nothing changes when it is.
            entries.append(_entry(_records(entry), f"{content.place} benchmark {name!r}:"))
    return entries


def _process_of_5(field: Field) -> Process:
    rounds = [value.number() for value in field.need("rounds").items()]
    if not rounds:
        raise UsageError(f"{field.place}.rounds: there are none")
    return Process(
        log_ratio=median(rounds),
        subject_s=field.need("latency_ms").positive() / 1e3,
        reference_s=field.need("yardstick_ms").positive() / 1e3,
        phases=_shares(field.need("phases")),
        rounds=len(rounds),
    )


def _name(field: Field) -> str:
    name = field.text()
    if not name.strip() or not name.isprintable():
        raise UsageError(f"{field.place}: {name!r}: must be a printable text in one line")
    return name


def _shares(field: Field) -> dict[str, float]:
    return {name: share.not_negative() for name, share in field.mapping().items()}


def _scalars(field: Field) -> dict[str, Scalar]:
    if not isinstance(field.value, dict):
        raise UsageError(f"{field.place}: must be an object")
    for name, value in field.value.items():
        finite = isinstance(value, float) and math.isfinite(value)
        if value is not None and not isinstance(value, str | int) and not finite:
            raise UsageError(f"{field.place}.{name}: must be a text or a number")
    return dict(field.value)


def _integer(field: Field, least: int = 0) -> int:
    if type(field.value) is not int or field.value < least:
        raise UsageError(f"{field.place}: must be a whole number of at least {least}")
    return field.value
