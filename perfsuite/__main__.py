"""The command line: ``python -m perfsuite COMMAND``, also installed as ``perfsuite``.

A command is a module with two functions: ``add_parser(commands)`` declares its options, and
``run(arguments)`` does it and returns the exit code. A new command is one more entry in COMMANDS. Only the module
of the command that was asked for is imported, so that a comparison waits for nothing that only the ladder needs.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import NoReturn

from perfsuite.errors import PerfsuiteError, UsageError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@dataclass(frozen=True)
class Command:
    """Where a command is, and what the list of all says of it."""

    module: str
    help: str


COMMANDS: Mapping[str, Command] = {
    "compare": Command("perfsuite.compare.command", "measure two git revisions against each other"),
    "bisect": Command(
        "perfsuite.compare.bisect_command", "find the first commit that made a test slower"
    ),
    "baselines": Command(
        "perfsuite.baselines_command", "list, compare, prune, rename or adopt stored baselines"
    ),
    "history": Command(
        "perfsuite.history.command",
        "show how latency went over the stored runs, and where it changed",
    ),
    "report": Command("perfsuite.report.command", "make one self-contained HTML page from results"),
    "calibrate": Command("perfsuite.calibration.command", "measure how often the gate is wrong"),
    "ladder": Command(
        "perfsuite.llama.ladder", "run the stages side by side and print what each brings"
    ),
    "diagnose": Command(
        "perfsuite.llama.diagnosis.command",
        "explain where a forward pass spends its time, and predict it",
    ),
}

_LLAMA = "it measures split-llama: from a checkout of it, pip install . './perfsuite[llama]'"
_HISTORY = "pip install 'perfsuite[history]'"
_REPORT = "pip install 'perfsuite[report]'"
_MISSING = {
    "jinja2": _REPORT,
    "matplotlib": _REPORT,
    "psutil": _LLAMA,
    "runtime": _LLAMA,
    "ruptures": _HISTORY,
    "scipy": _HISTORY,
    "torch": _LLAMA,
    "transformers": _LLAMA,
}


class _Parser(argparse.ArgumentParser):
    """argparse prints the whole usage with an error; one line is what a CI log needs."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 when it did its work or what the command's help says, 2 after one line on stderr for bad input or
    a run that failed, 130 after Ctrl-C. ``argv`` is the command line without the program's name.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A token may be text that the terminal cannot show; that is no reason to lose the table.
        sys.stdout.reconfigure(errors="replace")
    try:
        arguments = _parser(argv[0] if argv else "").parse_args(argv)
        arguments.command = shlex.join(["perfsuite", *argv])  # results say how they were made
        code: int = arguments.run(arguments)
        return code
    except PerfsuiteError as error:
        print(f"perfsuite: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    except ModuleNotFoundError as error:
        if error.name not in _MISSING:
            raise
        print(
            f"perfsuite: {argv[0]}: no module {error.name}: {_MISSING[error.name]}", file=sys.stderr
        )
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("perfsuite: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser(name: str) -> argparse.ArgumentParser:
    """The parser of the command ``name``, or one that only lists all commands."""
    parser = _Parser(
        prog="perfsuite",
        description="Gate, compare and follow latencies that pytest tests measure.",
        epilog="The gate itself is a plugin of pytest: ask for the fixture latency_gate in a test.",
    )
    parser.add_argument("--version", action="version", version=f"perfsuite {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    known = [other for other, command in COMMANDS.items() if find_spec(command.module)]
    if name in known:
        import_module(COMMANDS[name].module).add_parser(commands)
    else:
        for other in known:
            commands.add_parser(other, help=COMMANDS[other].help)
    return parser


def _version() -> str:
    try:
        return metadata.version("perfsuite")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
