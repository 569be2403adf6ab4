"""What the modules of commands share: their application, the command line as it was given, and common options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="also write the result there, as JSON")
]


def application(about: str | None = None) -> typer.Typer:
    """Return an empty application; a function that is registered with it is a command.

    Its parameters are the options, and what it returns is the exit code. Help is plain text, as a log shows it.
    """
    return typer.Typer(
        help=about, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
    )


def command_line(context: typer.Context) -> str:
    """Return the whole command line, quoted for a shell: results say how they were made."""
    return str(context.obj)


def whole(text: str) -> int:
    """Return an option's whole number.

    Raises:
        ValueError: if it is none; the message shows it.
    """
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def number(text: str) -> float:
    """Return an option's number.

    Raises:
        ValueError: if it is none; the message shows it.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
