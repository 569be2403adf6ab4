"""The errors that the measuring side raises on purpose, next to the runtime's ``SplitError``."""

from __future__ import annotations


class PerfsuiteError(Exception):
    """Root of the errors below. The message says in one line what was wrong and what to do."""


class UsageError(PerfsuiteError):
    """An option, a file or a prompt of the user's that cannot be used."""


class UnsplitError(PerfsuiteError):
    """The unsplit model's process did not start, died, refused, or missed its deadline."""


class RevisionError(PerfsuiteError):
    """A revision whose runtime cannot be run here: the message names the revision and its fault."""


class MeasurementError(PerfsuiteError):
    """Measurements that contradict each other, such as traffic that changes between rounds."""


class BenchmarkError(PerfsuiteError):
    """A benchmark that cannot be measured as it was handed to the gate, or whose process failed."""
