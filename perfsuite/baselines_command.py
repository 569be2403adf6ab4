"""``perfsuite baselines``: look at what is stored, and keep it in order."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfsuite import units
from perfsuite.commands import application, option
from perfsuite.errors import UsageError
from perfsuite.provenance import CHANGED
from perfsuite.render import terminal
from perfsuite.render.blocks import Block, Column, Heading, Row, Table, columns

if TYPE_CHECKING:
    from perfsuite.gate.baselines import Baselines, Entry

MOST_ADOPTED_BYTES = 1 << 20
_MOST_TEXT = 200  # characters of a text that is adopted
_MOST_FIELDS = 20  # of machine, workload and provenance that are adopted
_GIT_TIMEOUT_S = 60.0
# No link is followed, and no pipe waited for; elsewhere than on POSIX systems there are no such flags.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_LISTED = columns(
    "benchmark", "time", "ratio", "to", "processes", "recordings", "oldest", "newest",
    left=("to", "oldest", "newest"),
)  # fmt: skip
_DIFFERENCES = [Column(head) for head in ("was", "benchmark", "ratio", "", "machine")]
_LAST_COMMIT = "HEAD"

BaselinesFile = Annotated[
    Path | None,
    option(
        "--file",
        "FILE",
        "of the baselines (default: the setting perf_baselines of the nearest ini file, or "
        "baselines.json beside it)",
    ),
]

app = application("Look at the stored baselines, and keep them in order.")


def describe(machine: Mapping[str, Any]) -> str:
    """Return a machine in one line; what it is known by comes first."""
    first = [machine.get("cpu"), machine.get("gpu")]
    rest = [
        f"{name} {value}"
        for name, value in machine.items()
        if name not in ("cpu", "gpu") and value is not None
    ]
    return ", ".join([str(one) for one in first if one] + rest) or "any machine"


# The commands


@app.command("list", help="Show what is stored.")
def _list(file: BaselinesFile = None) -> int:
    path = _chosen(file)
    entries = _read(path).entries
    if not entries:
        print(f"{path}: nothing is stored")
        return 0
    machines: dict[str, list[Entry]] = {}
    for entry in entries:
        machines.setdefault(describe(entry.machine), []).append(entry)
    shown: list[Block] = []
    for machine, its_entries in machines.items():
        shown += [Heading(machine, 2), Table(_LISTED, list(map(_row, its_entries)))]
    terminal.show(shown, width=None)
    return 0


def _row(entry: Entry) -> Row:
    oldest, newest = (_when(entry.recordings[index].recorded) for index in (0, -1))
    return Row(
        _title(entry),
        units.seconds(entry.subject_s),
        _digits(entry.ratio, 4),
        entry.reference,
        str(len(entry.processes)),
        str(len(entry.recordings)),
        oldest,
        newest if len(entry.recordings) > 1 else "",
    )


@app.command(
    "diff",
    help="Show what changed since a revision. Ratios are the benchmark's time over its reference's; seconds hang "
    "on the machine's speed.",
)
def _diff(
    before: Annotated[
        str, typer.Argument(metavar="REV|FILE", help="a git revision, or a file of baselines")
    ] = _LAST_COMMIT,
    file: BaselinesFile = None,
) -> int:
    path = _chosen(file)
    now = _by_key(_read(path).entries)
    then = _by_key(_entries_before(path, before))
    rows = [
        _difference(then.get(key), now.get(key))
        for key in sorted({*now, *then})
        if then.get(key) != now.get(key)
    ]
    if rows:
        terminal.show([Table(_DIFFERENCES, rows)], width=None)
    else:
        print(f"{path}: as in {before}")
    return 0


def _difference(before: Entry | None, now: Entry | None) -> Row:
    """Return what became of an entry, of which one side at least is there."""
    entry = now or before
    if entry is None:
        raise ValueError("neither entry")
    what, figures, more = "changed", "", ""
    if before is None or now is None:
        what = "added" if before is None else "removed"
        figures = f"{_digits(entry.ratio, 4)} x {entry.reference}"
        more = units.seconds(entry.subject_s)
    elif before.reference != now.reference:
        figures = (
            f"{_digits(before.ratio, 4)} x {before.reference} -> "
            f"{_digits(now.ratio, 4)} x {now.reference}"
        )
        more = "another reference"
    else:
        if now.recordings[: len(before.recordings)] == before.recordings:
            what = "extended" if len(now.recordings) > len(before.recordings) else what
        figures = (
            f"{_digits(before.ratio, 4)} -> {_digits(now.ratio, 4)} "
            f"({_percent(now.ratio / before.ratio)})"
        )
        more = f"{len(before.processes)} -> {len(now.processes)} processes"
        if "" not in (before.code, now.code) and before.code != now.code:
            more += ", another benchmark's code"
    return Row(what, _title(entry), figures, more, describe(entry.machine))


@app.command(
    "prune",
    help="Remove benchmarks that are no more. On every machine. Git has what is removed; --dry-run only says what "
    "it would be.",
)
def _prune(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="benchmarks to remove")
    ] = None,
    unused: Annotated[
        Path | None,
        option("--unused", "REPORT", "those that are not in this --perf-report of a whole run"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="remove nothing")] = False,
    file: BaselinesFile = None,
) -> int:
    path = _chosen(file)
    stored = _read(path)
    removed = set(names or ())
    unknown = sorted(removed - stored.names)
    if unknown:
        raise UsageError(f"{path}: no benchmark is called {unknown[0]!r}")
    if unused is not None:
        removed |= stored.names - _names_in(unused)
    elif not removed:
        raise UsageError("prune: give names, or --unused with a report")
    for name in sorted(removed):
        print(f"{'would remove' if dry_run else 'removed'}: {name}")
    if not removed:
        print("nothing to remove")
    elif not dry_run:
        stored.remove(removed)
    return 0


def _names_in(path: Path) -> set[str]:
    """Return the benchmarks of a run's report.

    Raises:
        UsageError: if it does not show of all tests which benchmarks they have.
    """
    from perfsuite.gate.outcome import Status
    from perfsuite.gate.reported import read_report

    report = read_report(path)
    if report.whole is False:
        raise UsageError(f"--unused {path}: is of a part of the tests; run all, or give names")
    for subject in report.subjects:
        # A test that did not reach its gate is known by its own name, not by the gate's.
        if subject.verdict == Status.NOT_MEASURED and subject.test in ("", subject.name):
            raise UsageError(
                f"--unused {path}: {subject.name} was not measured, so that its benchmarks are not known; "
                "run it, or give names"
            )
    if not report.subjects:
        raise UsageError(f"--unused {path}: holds no benchmark at all")
    return {subject.name for subject in report.subjects}


@app.command("rename", help="Give a benchmark another name. Its recordings stay.")
def _rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="the name that is stored")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="one that is not")],
    file: BaselinesFile = None,
) -> int:
    count = _read(_chosen(file)).rename(old, new)
    print(f"renamed: {old} -> {new} ({count} {'entry' if count == 1 else 'entries'})")
    return 0


@app.command(
    "adopt",
    help="Take in what one other machine recorded. The file is trusted with nothing: it must be small, hold one "
    "machine's entries and only names and phases that are stored already, and no byte of it is copied.",
)
def _adopt(
    recorded: Annotated[
        Path, typer.Argument(metavar="RECORDED", help="the other machine's file of baselines")
    ],
    new: Annotated[
        bool, typer.Option("--new", help="also benchmarks whose names are not stored yet")
    ] = False,
    file: BaselinesFile = None,
) -> int:
    stored = _read(_chosen(file))
    entries = sorted(_offered(recorded), key=lambda entry: entry.name)
    _check_offered(entries, stored, new=new)
    before = {id(one): stored.find(*_identity(one)) for one in entries}
    changed = [one for one in entries if before[id(one)] != one]
    if not changed:
        print("nothing new")
        return 0
    stored.record(*changed)
    for entry in changed:
        done = "added" if before[id(entry)] is None else "replaced"
        print(f"{describe(entry.machine)}: {done}: {entry.name}")
    return 0


def _offered(path: Path) -> list[Entry]:
    """Return the entries of a file that nobody vouches for.

    Raises:
        UsageError: if it is no plain small file of baselines.
    """
    from perfsuite.gate.baselines import parse

    try:
        file = os.open(path, os.O_RDONLY | _CAREFULLY)
    except OSError as error:
        raise UsageError(f"{path.name}: cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UsageError(f"{path.name}: must be a file")
        content = os.read(file, MOST_ADOPTED_BYTES + 1)
    finally:
        os.close(file)
    if len(content) > MOST_ADOPTED_BYTES:
        raise UsageError(f"{path.name}: must be at most {MOST_ADOPTED_BYTES} bytes long")
    try:
        return parse(content.decode(), path.name)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name}: is no text: {error}") from error


def _check_offered(entries: Sequence[Entry], stored: Baselines, *, new: bool) -> None:
    from perfsuite.gate.baselines import MOST_PROCESSES

    machines = {json.dumps(dict(entry.machine), sort_keys=True) for entry in entries}
    if len(machines) != 1:
        raise UsageError(f"entries: must be of one machine, got {len(machines)}")
    phases = {
        phase for one in stored.entries for process in one.processes for phase in process.phases
    }
    for entry in entries:
        if entry.name not in stored.names and not new:
            raise UsageError(f"{entry.name}: is not stored yet; --new adopts it")
        if len(entry.name) > _MOST_TEXT:
            raise UsageError(f"name: must be at most {_MOST_TEXT} characters long")
        if len(entry.processes) > MOST_PROCESSES:
            raise UsageError(f"{entry.name}: processes: more than {MOST_PROCESSES}")
        _check_plain(f"{entry.name}: machine", entry.machine)
        _check_plain(f"{entry.name}: workload", entry.workload)
        _check_plain(entry.name, {"code": entry.code, "reference": entry.reference})
        for recording in entry.recordings:
            _check_plain(f"{entry.name}: recorded", recording.recorded)
        for process in entry.processes:
            _check_plain(f"{entry.name}: process", {"server": process.server})
            if not process.phases.keys() <= phases and not new:
                raise UsageError(f"{entry.name}: phases: must be of {', '.join(sorted(phases))}")
            _check_plain(f"{entry.name}: phases", process.phases)


def _check_plain(place: str, values: Mapping[str, Any]) -> None:
    if len(values) > _MOST_FIELDS:
        raise UsageError(f"{place}: must hold at most {_MOST_FIELDS} fields")
    for name, value in values.items():
        for text in (name, value):
            plain = not isinstance(text, str) or (len(text) <= _MOST_TEXT and text.isprintable())
            if not plain:
                raise UsageError(f"{place}: {name[:40]!a}: must be short printable texts")


# What they share


def _chosen(file: Path | None) -> Path:
    from perfsuite.locating import default_file

    return default_file(Path.cwd()) if file is None else file


def _read(path: Path) -> Baselines:
    from perfsuite.gate.baselines import Baselines

    if not path.exists():
        raise UsageError(f"{path}: no such file; --file names another")
    return Baselines.read(path)


def _entries_before(path: Path, before: str) -> list[Entry]:
    """Return the entries of another file, or of ``path`` in a revision: none where that has no such file.

    Raises:
        UsageError: if there is neither file nor revision.
    """
    from perfsuite.gate.baselines import parse

    if before != _LAST_COMMIT and Path(before).is_file():
        return _read(Path(before)).entries
    folder = path.resolve().parent
    found = _git(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{before}^{{commit}}"
    )
    if found.returncode:
        raise UsageError(
            f"diff {before}: is neither a file nor a revision of {folder}'s repository"
        )
    commit = found.stdout.strip()
    name = f"./{path.resolve().name}"
    if not _git(folder, "ls-tree", "--name-only", commit, "--", name).stdout.strip():
        return []
    shown = _git(folder, "show", f"{commit}:{name}")
    if shown.returncode:
        raise UsageError(f"diff {before}: {shown.stderr.strip()}")
    return parse(shown.stdout, f"{path} of {before}")


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False,
            timeout=_GIT_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"git cannot be run: {error}") from error


def _identity(entry: Entry) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    return entry.name, entry.machine, entry.workload


def _by_key(entries: Iterable[Entry]) -> dict[tuple[str, str, str], Entry]:
    return {
        (
            entry.name,
            describe(entry.machine),
            json.dumps(dict(entry.workload), sort_keys=True),
        ): entry
        for entry in entries
    }


def _title(entry: Entry) -> str:
    workload = ", ".join(f"{name} {value}" for name, value in sorted(entry.workload.items()))
    return f"{entry.name} ({workload})" if workload else entry.name


def _when(recorded: Mapping[str, str]) -> str:
    told = " ".join(recorded[name] for name in ("date", "commit") if recorded.get(name))
    return f"{told or 'unknown'}{' with changes' if CHANGED in recorded else ''}"


def _digits(value: float, significant: int = 3) -> str:
    """Return ``value`` with so many significant digits, without an exponent where that is readable."""
    text = f"{value:#.{significant}g}"
    return f"{value:.0f}" if "e+" in text else text.removesuffix(".")


def _percent(ratio: float) -> str:
    change = round(ratio - 1, 3)
    return units.percent(change) if change else "the same"
