"""SIGTERM and SIGHUP end a run as Ctrl-C does: through every cleanup, once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Which signal has ended the run, if one has."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def status(self) -> int:
        """The exit status that shells report for it."""
        return 128 + (self.number or 0)


@contextmanager
def interrupted() -> Iterator[Interrupts]:
    """Raise KeyboardInterrupt in the block at the first of the three signals; ignore those that follow.

    Somebody else's handler of SIGTERM or SIGHUP stays, and off the main thread nothing is changed.
    """
    found = Interrupts()

    def end(number: int, frame: FrameType | None) -> None:
        for ending in before:
            signal.signal(ending, signal.SIG_IGN)  # a second one must not interrupt the cleanup
        found.number = number
        raise KeyboardInterrupt

    defaults = (signal.SIG_DFL, signal.default_int_handler)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            number: handler
            for number in _ENDING
            if (handler := signal.getsignal(number)) in defaults
        }
    for number in before:
        signal.signal(number, end)
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
