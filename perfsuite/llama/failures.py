"""The runtime's errors as errors of ours, which the command line tells in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from perfsuite.errors import PerfsuiteError
from runtime import SplitError


@contextmanager
def runtime_failures() -> Iterator[None]:
    """Raise PerfsuiteError, with the same words, for a SplitError of the block or the decorated function."""
    try:
        yield
    except SplitError as error:
        raise PerfsuiteError(str(error)) from error
