"""The command line: ``python -m perfsuite COMMAND``, also installed as ``perfsuite``.

A command is a module with two functions: ``add_parser(commands)`` declares its options, and
``run(arguments)`` does it and returns the exit code. A new command is one more entry in COMMANDS.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from perfsuite import ladder
from perfsuite.calibration import command as calibration
from perfsuite.compare import command as compare
from perfsuite.diagnosis import command as diagnose
from perfsuite.errors import PerfsuiteError, UsageError
from perfsuite.history import command as history
from perfsuite.report import command as report
from runtime import SplitError

COMMANDS = (ladder, diagnose, compare, history, report, calibration)

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class _Parser(argparse.ArgumentParser):
    """argparse prints the whole usage with an error; one line is what a CI log needs."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 when it did its work or what the command's help says, 2 after one line on stderr for bad input or
    a runtime that failed, 130 after Ctrl-C. ``argv`` is the command line without the program's name.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A token may be text that the terminal cannot show; that is no reason to lose the table.
        sys.stdout.reconfigure(errors="replace")
    parser = _Parser(prog="perfsuite", description="Measure a LLaMA that runs split in two.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    try:
        arguments = parser.parse_args(argv)
        arguments.command = shlex.join(["perfsuite", *argv])  # results say how they were made
        code: int = arguments.run(arguments)
        return code
    except (PerfsuiteError, SplitError) as error:
        print(f"perfsuite: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("perfsuite: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
