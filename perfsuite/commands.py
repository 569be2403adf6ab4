"""What the modules of commands share: their application, the command line as it was given, and common options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")


def option(
    name: str, metavar: str, about: str, parser: Callable[[str], object] | None = None
) -> Any:
    """Declare an option, for an ``Annotated`` parameter."""
    return typer.Option(name, metavar=metavar, parser=parser, help=about)


JsonFile = Annotated[Path | None, option("--json", "FILE", "also write the result there, as JSON")]


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
    """Return an option's whole number. Raises ValueError, whose message shows it, if it is none."""
    return _parsed(text, int, "whole number")


def number(text: str) -> float:
    """Return an option's number. Raises ValueError, whose message shows it, if it is none."""
    return _parsed(text, float, "number")


def _parsed(text: str, kind: Callable[[str], T], what: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is no {what}") from None
