"""``perfsuite history``: the trend of each subject on each machine, and where it changed."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsuite.errors import UsageError
from perfsuite.files import check_writable, write_json, write_text

if TYPE_CHECKING:
    from perfsuite.history.accepted import Known
    from perfsuite.history.explaining import Story

STORAGE = Path(".benchmarks")
ACCEPTED = Path("perfsuite/accepted.toml")


def add_parser(commands: Any) -> None:
    """Declare ``history`` and its options."""
    parser = commands.add_parser(
        "history",
        description="Read the runs that pytest-benchmark stored (pytest perfsuite "
        "--benchmark-autosave) and show the trend of each subject on each machine, with the changes "
        "of level and the commits between which they lie. A change never fails this command.",
    )
    parser.add_argument(
        "--storage", type=Path, default=STORAGE, metavar="DIR",
        help="folder of the stored runs, or one file (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--subject", metavar="S", help="only those whose name holds this text")
    parser.add_argument("--machine", metavar="M", help="only machines whose name holds this text")
    add_accepted(parser)
    parser.add_argument(
        "--import", dest="sources", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
        help="first store copies of these pytest-benchmark files",
    )  # fmt: skip
    parser.add_argument("--chart", type=Path, metavar="F", help="also draw it there, as SVG")
    parser.add_argument("--json", type=Path, metavar="F", help="also write it there")
    parser.set_defaults(run=run)


def add_accepted(parser: argparse.ArgumentParser) -> None:
    """Declare ``--accepted``."""
    parser.add_argument(
        "--accepted", type=Path, metavar="FILE",
        help=f"changes that were accepted, with reasons (default: {ACCEPTED}, if there is one)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Import, read, explain, show. Raises UsageError."""
    from perfsuite.history import store
    from perfsuite.history.explaining import as_json, unused
    from perfsuite.history.trend import print_history

    if arguments.chart is not None and arguments.chart.suffix.lower() != ".svg":
        raise UsageError(f"--chart {arguments.chart}: must end in .svg")
    if arguments.chart is not None:
        import_module("perfsuite.charts")  # a missing extra is told before anything is stored
    for option in ("chart", "json"):
        if (path := getattr(arguments, option)) is not None:
            check_writable(path, option=f"--{option}")
    for source in arguments.sources:
        added = store.add(arguments.storage, source)
        print(f"{source}: {f'stored as {added}' if added else 'is stored already'}")
    known = known_of(arguments.accepted)
    stories, unreadable = read_stories(
        arguments.storage, known, subject=arguments.subject, machine=arguments.machine
    )
    for line in unreadable:
        print(f"perfsuite: left out: {line}", file=sys.stderr)
    if arguments.json is not None:
        series = [as_json(story) for story in stories]
        write_json(arguments.json, {"series": series, "unreadable": unreadable})
    if arguments.chart is not None:
        from perfsuite.history.chart import history_chart

        write_text(arguments.chart, history_chart(stories), option="--chart ")
    print_history(stories)
    if not stories:
        print("no run is stored that fits")
    if arguments.subject is None and arguments.machine is None:
        for entry in unused(known.accepted, stories):
            print(f"accepted, but not there: {entry.subject} at {entry.commit}: {entry.reason}")
    return 0


def known_of(path: Path | None) -> Known:
    """Return what ``path``, or the file at the usual place, knows. Raises UsageError."""
    from perfsuite.history.accepted import Known, read_known

    if path is None:
        return read_known(ACCEPTED) if ACCEPTED.is_file() else Known()
    return read_known(path)


def read_stories(
    storage: Path,
    known: Known,
    *,
    subject: str | None = None,
    machine: str | None = None,
) -> tuple[list[Story], list[str]]:
    """Every series in ``storage``, explained, and a line for each file that could not be read.

    Raises UsageError when there is no such folder, or one file is named that is damaged.
    """
    from perfsuite.history import store
    from perfsuite.history.explaining import explain
    from perfsuite.history.series import gather

    stored = store.read(storage)
    series = gather(stored.runs, subject=subject, machine=machine, names=known.names)
    stories = [explain(one, known.accepted, Path.cwd()) for one in series]
    return stories, list(stored.unreadable)
