"""``perfsuite history``: the trend of each subject on each machine, and where it changed."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perfsuite.commands import JsonFile, application, option
from perfsuite.errors import UsageError
from perfsuite.files import check_outputs, write_json, write_text

if TYPE_CHECKING:
    from perfsuite.history.accepted import Known
    from perfsuite.history.explaining import Story

STORAGE = Path(".benchmarks")
ACCEPTED = Path("perfsuite/accepted.toml")

AcceptedFile = Annotated[
    Path | None,
    option(
        "--accepted",
        "FILE",
        f"changes that were accepted, with reasons (default: {ACCEPTED}, if there is one)",
    ),
]

app = application()


@app.command(
    "history",
    help="Read the runs that pytest-benchmark stored (pytest perfsuite --benchmark-autosave) and show the trend "
    "of each subject on each machine, with the changes of level and the commits between which they lie. A change "
    "never fails this command.",
)
def run(
    more_sources: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="after --import: more of its files")
    ] = None,
    storage: Annotated[
        Path,
        option("--storage", "FOLDER", "folder of the stored runs, or one file"),
    ] = STORAGE,
    subject: Annotated[
        str | None,
        option("--subject", "TEXT", "only those whose name holds this text"),
    ] = None,
    machine: Annotated[
        str | None,
        option("--machine", "TEXT", "only machines whose name holds this text"),
    ] = None,
    accepted: AcceptedFile = None,
    sources: Annotated[
        list[Path] | None,
        option("--import", "FILE", "first store copies of these pytest-benchmark files"),
    ] = None,
    chart: Annotated[Path | None, option("--chart", "FILE", "also draw it there, as SVG")] = None,
    json_file: JsonFile = None,
) -> int:
    """Import, read, explain, show. Raises UsageError."""
    from perfsuite.history import store
    from perfsuite.history.explaining import as_json, unused
    from perfsuite.history.trend import history_blocks
    from perfsuite.render import terminal

    if more_sources and not sources:
        raise UsageError(f"{more_sources[0]}: give files after --import")
    if chart is not None and chart.suffix.lower() != ".svg":
        raise UsageError(f"--chart {chart}: must end in .svg")
    if chart is not None:
        import_module("perfsuite.charts")  # a missing extra is told before anything is stored
    check_outputs({"--chart": chart, "--json": json_file})
    for source in [*(sources or []), *(more_sources or [])]:
        added = store.add(storage, source)
        print(f"{source}: {f'stored as {added}' if added else 'is stored already'}")
    known = known_of(accepted)
    stories, unreadable = read_stories(storage, known, subject=subject, machine=machine)
    for line in unreadable:
        print(f"perfsuite: left out: {line}", file=sys.stderr)
    if json_file is not None:
        series = [as_json(story) for story in stories]
        write_json(json_file, {"series": series, "unreadable": unreadable})
    if chart is not None:
        from perfsuite.history.chart import history_chart

        write_text(chart, history_chart(stories), option="--chart ")
    terminal.show(history_blocks(stories))
    if not stories:
        print("no run is stored that fits")
    if subject is None and machine is None:
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
