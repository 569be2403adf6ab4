"""A progress bar for the long steps, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Told of the work done and the work in all, in any unit."""


@contextmanager
def progress_bar(title: str, *, shown: bool) -> Iterator[Advance]:
    """Gives what a builder calls as its work proceeds; until the first call the bar pulses.

    Nothing is written unless ``shown`` and standard error is a terminal.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(
        console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
