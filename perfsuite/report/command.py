"""``perfsuite report``: one page to look at, from the results of the other commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsuite.errors import UsageError
from perfsuite.files import check_writable, write_text
from perfsuite.history.command import add_accepted, known_of, read_stories

if TYPE_CHECKING:
    from perfsuite.history.explaining import Story

OUTPUT = Path("report.html")


def add_parser(commands: Any) -> None:
    """Declare ``report`` and its options."""
    parser = commands.add_parser(
        "report",
        description="Make one HTML file, readable anywhere and without a network, from the results "
        "of the other commands. Each input is optional; a missing one leaves its section out.",
    )
    parser.add_argument(
        "--ladder", type=Path, metavar="F", help="what perfsuite ladder --json wrote"
    )
    parser.add_argument(
        "--diagnose", type=Path, metavar="F", help="what perfsuite diagnose --json wrote"
    )
    parser.add_argument("--gate", type=Path, metavar="F", help="what pytest --perf-report wrote")
    parser.add_argument(
        "--storage", type=Path, metavar="DIR", help="folder of stored runs, for the history"
    )
    add_accepted(parser)
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="F", help="the page (default: %(default)s)"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="F",
        help="write the ladder there as Markdown too, for a step summary or a comment; - is stdout",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, render, write. Raises UsageError."""
    from perfsuite.report.diagnosis import read_diagnosis
    from perfsuite.report.inputs import read_gate, read_ladder
    from perfsuite.report.markdown import ladder_markdown
    from perfsuite.report.page import Inputs, render

    given = (arguments.ladder, arguments.diagnose, arguments.gate, arguments.storage)
    if all(path is None for path in given):
        raise UsageError("report: give at least one of --ladder, --diagnose, --gate, --storage")
    if arguments.markdown is not None and arguments.ladder is None:
        raise UsageError("--markdown: needs --ladder")
    to_stdout = arguments.markdown == Path("-")
    check_writable(arguments.output, option="--output")
    if arguments.markdown is not None and not to_stdout:
        check_writable(arguments.markdown, option="--markdown")
    ladder = read_ladder(arguments.ladder) if arguments.ladder else None
    diagnosis = read_diagnosis(arguments.diagnose) if arguments.diagnose else None
    gate = read_gate(arguments.gate) if arguments.gate else None
    stories: list[Story] = []
    unreadable: list[str] = []
    if arguments.storage is not None:
        known = known_of(arguments.accepted)
        stories, unreadable = read_stories(arguments.storage, known)
        for line in unreadable:
            print(f"perfsuite: left out: {line}", file=sys.stderr)
    storage = "" if arguments.storage is None else str(arguments.storage)
    inputs = Inputs(arguments.command, ladder, diagnosis, gate, stories, storage, unreadable)
    write_text(arguments.output, render(inputs), option="--output ")
    if ladder is not None and arguments.markdown is not None:
        text = ladder_markdown(ladder)
        if to_stdout:
            print(text, end="")
        else:
            write_text(arguments.markdown, text, option="--markdown ")
    if not to_stdout:
        print(f"wrote {arguments.output}")
    return 0
