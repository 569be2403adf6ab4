"""``perfsuite baselines``: look at what is stored, and keep it in order."""

from __future__ import annotations

import argparse
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from perfsuite import units
from perfsuite.errors import UsageError
from perfsuite.schema import read

if TYPE_CHECKING:
    from perfsuite.gate.baselines import Baselines, Entry

MOST_ADOPTED_BYTES = 1 << 20
_MOST_TEXT = 200  # characters of a text that is adopted
_MOST_FIELDS = 20  # of machine, workload and provenance that are adopted
_GIT_TIMEOUT_S = 60.0
# No link is followed, and no pipe waited for; elsewhere than on POSIX systems there are no such flags.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_HEADINGS = ("benchmark", "time", "ratio", "to", "processes", "recordings", "oldest", "newest")
_LAST_COMMIT = "HEAD"


def add_parser(commands: Any) -> None:
    """Declare ``baselines`` and its own commands."""
    parser = commands.add_parser(
        "baselines",
        help="list, compare, prune, rename or adopt stored baselines",
        description="Look at the stored baselines, and keep them in order.",
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def action(
        name: str, do: Callable[[argparse.Namespace], int], text: str, more: str = ""
    ) -> argparse.ArgumentParser:
        own: argparse.ArgumentParser = actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}".strip()
        )
        own.add_argument(
            "--file", type=Path, metavar="FILE",
            help="of the baselines (default: the setting perf_baselines of the nearest ini file, "
            "or baselines.json beside it)",
        )  # fmt: skip
        own.set_defaults(run=run, action=do)
        return own

    action("list", _list, "show what is stored")
    diff = action(
        "diff", _diff, "show what changed since a revision",
        "Ratios are the benchmark's time over its reference's; seconds hang on the machine's speed.",
    )  # fmt: skip
    diff.add_argument(
        "before", nargs="?", default=_LAST_COMMIT, metavar="REV|FILE",
        help="a git revision, or a file of baselines (default: %(default)s)",
    )  # fmt: skip
    prune = action(
        "prune", _prune, "remove benchmarks that are no more",
        "On every machine. Git has what is removed; --dry-run only says what it would be.",
    )  # fmt: skip
    prune.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to remove")
    prune.add_argument(
        "--unused", type=Path, metavar="REPORT",
        help="those that are not in this --perf-report of a whole run",
    )  # fmt: skip
    prune.add_argument("--dry-run", action="store_true", help="remove nothing")
    rename = action("rename", _rename, "give a benchmark another name", "Its recordings stay.")
    rename.add_argument("old", metavar="OLD")
    rename.add_argument("new", metavar="NEW")
    adopt = action(
        "adopt", _adopt, "take in what one other machine recorded",
        "The file is trusted with nothing: it must be small, hold one machine's entries and only names and "
        "phases that are stored already, and no byte of it is copied.",
    )  # fmt: skip
    adopt.add_argument("recorded", type=Path, metavar="RECORDED")
    adopt.add_argument(
        "--new", action="store_true", help="also benchmarks whose names are not stored yet"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked. Raises UsageError."""
    if arguments.file is None:
        from perfsuite.locating import default_file

        arguments.file = default_file(Path.cwd())
    code: int = arguments.action(arguments)
    return code


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


def _list(arguments: argparse.Namespace) -> int:
    entries = _read(arguments.file).entries
    if not entries:
        print(f"{arguments.file}: nothing is stored")
        return 0
    machines: dict[str, list[Entry]] = {}
    for entry in entries:
        machines.setdefault(describe(entry.machine), []).append(entry)
    for number, (machine, its_entries) in enumerate(machines.items()):
        print(f"{chr(10) * (number > 0)}{machine}")
        _print_table([_HEADINGS, *map(_row, its_entries)])
    return 0


def _row(entry: Entry) -> tuple[str, ...]:
    oldest, newest = (_when(entry.recordings[index].recorded) for index in (0, -1))
    return (
        _title(entry),
        units.seconds(entry.subject_s),
        _digits(entry.ratio, 4),
        entry.reference,
        str(len(entry.processes)),
        str(len(entry.recordings)),
        oldest,
        newest if len(entry.recordings) > 1 else "",
    )


def _diff(arguments: argparse.Namespace) -> int:
    now = _by_key(_read(arguments.file).entries)
    before = _by_key(_entries_before(arguments.file, arguments.before))
    rows = [
        _difference(before.get(key), now.get(key))
        for key in sorted({*now, *before})
        if before.get(key) != now.get(key)
    ]
    if not rows:
        print(f"{arguments.file}: as in {arguments.before}")
    _print_table(rows)
    return 0


def _difference(before: Entry | None, now: Entry | None) -> tuple[str, ...]:
    entry = now or before
    if entry is None:
        return ()
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
    return what, _title(entry), figures, more, describe(entry.machine)


def _prune(arguments: argparse.Namespace) -> int:
    stored = _read(arguments.file)
    names = set(arguments.names)
    unknown = sorted(names - stored.names)
    if unknown:
        raise UsageError(f"{arguments.file}: no benchmark is called {unknown[0]!r}")
    if arguments.unused is not None:
        names |= stored.names - _names_in(arguments.unused)
    elif not names:
        raise UsageError("prune: give names, or --unused with a report")
    for name in sorted(names):
        print(f"{'would remove' if arguments.dry_run else 'removed'}: {name}")
    if not names:
        print("nothing to remove")
    elif not arguments.dry_run:
        stored.remove(names)
    return 0


class _Subject(Struct, frozen=True):
    name: str
    verdict: str | None = None
    test: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is a gate: a test that did not reach its gate is known by its own name, not by the gate's."""
        return self.verdict != "not-measured" or self.test not in (None, self.name)


class _Report(Struct, frozen=True):
    """As much of a run's report as says which benchmarks there are."""

    subjects: tuple[_Subject, ...]
    whole: bool | None = None


def _names_in(path: Path) -> set[str]:
    """Return the benchmarks of a run's report.

    Raises:
        UsageError: if it does not show of all tests which benchmarks they have.
    """
    report = read(path, _Report)
    if report.whole is False:
        raise UsageError(f"--unused {path}: is of a part of the tests; run all, or give names")
    for subject in report.subjects:
        if not subject.is_known:
            raise UsageError(
                f"--unused {path}: {subject.name} was not measured, so that its benchmarks are not known; "
                "run it, or give names"
            )
    if not report.subjects:
        raise UsageError(f"--unused {path}: holds no benchmark at all")
    return {subject.name for subject in report.subjects}


def _rename(arguments: argparse.Namespace) -> int:
    count = _read(arguments.file).rename(arguments.old, arguments.new)
    print(f"renamed: {arguments.old} -> {arguments.new} ({_counted(count, 'entry', 'entries')})")
    return 0


def _adopt(arguments: argparse.Namespace) -> int:
    stored = _read(arguments.file)
    entries = sorted(_offered(arguments.recorded), key=lambda entry: entry.name)
    _check_offered(entries, stored, new=arguments.new)
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
    return (
        " ".join(recorded[name] for name in ("date", "commit") if recorded.get(name)) or "unknown"
    )


def _digits(value: float, significant: int = 3) -> str:
    """Return ``value`` with so many significant digits, without an exponent where that is readable."""
    text = f"{value:#.{significant}g}"
    return f"{value:.0f}" if "e+" in text else text.removesuffix(".")


def _percent(ratio: float) -> str:
    change = round(ratio - 1, 3)
    return units.percent(change) if change else "the same"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join(cells).rstrip())
