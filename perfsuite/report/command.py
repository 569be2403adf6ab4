"""``perfsuite report``: one page to look at, from the results of the other commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perfsuite.commands import application, command_line, option
from perfsuite.errors import UsageError
from perfsuite.files import check_outputs, write_text
from perfsuite.history.command import AcceptedFile, known_of, read_stories

if TYPE_CHECKING:
    from perfsuite.history.explaining import Story

OUTPUT = Path("report.html")

app = application()


@app.command(
    "report",
    help="Make one HTML file, readable anywhere and without a network, from the results of the other commands. "
    "Each input is optional; a missing one leaves its section out.",
)
def run(
    context: typer.Context,
    ladder_file: Annotated[
        Path | None,
        option("--ladder", "FILE", "what perfsuite ladder --json wrote"),
    ] = None,
    diagnosis_file: Annotated[
        Path | None,
        option("--diagnose", "FILE", "what perfsuite diagnose --json wrote"),
    ] = None,
    gate_file: Annotated[
        Path | None,
        option("--gate", "FILE", "what pytest --perf-report wrote"),
    ] = None,
    storage: Annotated[
        Path | None,
        option("--storage", "FOLDER", "folder of stored runs, for the history"),
    ] = None,
    accepted: AcceptedFile = None,
    output: Annotated[Path, option("--output", "FILE", "the page")] = OUTPUT,
    markdown: Annotated[
        Path | None,
        option(
            "--markdown",
            "FILE",
            "write the ladder there as Markdown too, for a step summary or a comment; - is stdout",
        ),
    ] = None,
) -> int:
    """Read, render, write. Raises UsageError."""
    from perfsuite.gate.reported import read_report
    from perfsuite.llama.diagnosis.result import read_diagnosis
    from perfsuite.llama.results import read_ladder
    from perfsuite.llama.table import ladder_blocks
    from perfsuite.render.markdown import markdown as as_markdown
    from perfsuite.report.page import Inputs, render

    if all(path is None for path in (ladder_file, diagnosis_file, gate_file, storage)):
        raise UsageError("report: give at least one of --ladder, --diagnose, --gate, --storage")
    if markdown is not None and ladder_file is None:
        raise UsageError("--markdown: needs --ladder")
    to_stdout = markdown == Path("-")
    check_outputs({"--output": output, "--markdown": None if to_stdout else markdown})
    ladder = read_ladder(ladder_file) if ladder_file else None
    diagnosis = read_diagnosis(diagnosis_file) if diagnosis_file else None
    gate = read_report(gate_file) if gate_file else None
    stories: list[Story] = []
    unreadable: list[str] = []
    if storage is not None:
        stories, unreadable = read_stories(storage, known_of(accepted))
        for line in unreadable:
            print(f"perfsuite: left out: {line}", file=sys.stderr)
    place = "" if storage is None else str(storage)
    inputs = Inputs(command_line(context), ladder, diagnosis, gate, stories, place, unreadable)
    write_text(output, render(inputs), option="--output ")
    if ladder is not None and markdown is not None:
        text = as_markdown(ladder_blocks(ladder))
        if to_stdout:
            print(text, end="")
        else:
            write_text(markdown, text, option="--markdown ")
    if not to_stdout:
        print(f"wrote {output}")
    return 0
