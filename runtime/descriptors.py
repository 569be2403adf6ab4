"""Whether this process may open enough files for what ends the process where it may not."""

from __future__ import annotations

import os

from runtime.errors import WorkerError

ZEROMQ = 24
"""Descriptors that a ZeroMQ connection and a worker's start take together, and some to spare."""


def require_descriptors(count: int) -> None:
    """Raise WorkerError unless ``count`` more descriptors can be had: without them libzmq aborts the process."""
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.eventfd(0, os.EFD_CLOEXEC))
    except OSError as error:
        raise WorkerError(
            f"worker: this process may open {len(taken)} more files, and {count} are needed ({error.strerror}); "
            "close some, or allow more (ulimit -n)"
        ) from error
    finally:
        for descriptor in taken:
            os.close(descriptor)
