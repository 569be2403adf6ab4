"""The command line: ``python -m perfsuite COMMAND``, also installed as ``perfsuite``.

A command is a function in a module of its own: its parameters are the options, what it returns is the exit code, and
``app`` of its module knows it. A new command is one more entry in COMMANDS. Only the module of the command that was
asked for is imported, so that a comparison waits for nothing that only the ladder needs.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from perfsuite.errors import PerfsuiteError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_NAME = "perfsuite"
_COMPLETION = "_PERFSUITE_COMPLETE"  # a shell sets it to ask what could come next


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


class _Commands(TyperGroup):
    """Lists commands whose modules are not imported; one that is called takes its entry's place."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in self.commands:
            self.add_command(get_command(import_module(COMMANDS[name].module).app), name)
        return super().resolve_command(ctx, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 when it did its work or what the command's help says, 2 after one line on stderr for bad input or
    a run that failed, 130 after Ctrl-C. ``argv`` is the command line without the program's name.

    Raises:
        SystemExit: after --help, --version and what else is no command.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A token may be text that the terminal cannot show; that is no reason to lose the table.
        sys.stdout.reconfigure(errors="replace")
    program = get_command(_application())
    try:
        if os.environ.get(_COMPLETION):
            program.main(prog_name=_NAME)
        line = shlex.join([_NAME, *argv])
        with program.make_context(_NAME, list(argv), obj=line) as context:
            code: int = program.invoke(context)
            return code
    except typer.Exit as ended:
        raise SystemExit(ended.exit_code) from None
    except typer.TyperException as error:
        return _failed(_misuse(error))
    except PerfsuiteError as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _MISSING:
            raise
        return _failed(f"{argv[0]}: no module {error.name}: {_MISSING[error.name]}")
    except KeyboardInterrupt:
        print("perfsuite: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _application() -> typer.Typer:
    app = typer.Typer(
        cls=_Commands,
        help="Gate, compare and follow latencies that pytest tests measure.",
        epilog="The gate itself is a plugin of pytest: ask for the fixture latency_gate in a test.",
        subcommand_metavar="COMMAND ...",
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name, command in COMMANDS.items():
        if find_spec(command.module):
            app.command(name, short_help=command.help)(_entry)
    return app


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def _entry() -> None:
    """Stands in the list for a command."""


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        version = metadata.version("perfsuite")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    print(f"perfsuite {version}")
    raise typer.Exit


def _misuse(error: typer.TyperException) -> str:
    """Return what is wrong with the command line, and which help says more."""
    # The second prefix is pydantic's, which typer checks values with.
    message = error.format_message().replace(": Value error, ", ": ").rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path if context else _NAME} --help)"


def _failed(message: str) -> int:
    """Tell it in one line, which is what a CI log needs."""
    print(f"perfsuite: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
