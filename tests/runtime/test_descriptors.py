"""Whether enough files may be opened: asked by opening them, and leaving none."""

from __future__ import annotations

import psutil
import pytest

from runtime.descriptors import ZEROMQ, require_descriptors
from runtime.errors import WorkerError


def test_enough_are_enough_and_none_stays_open() -> None:
    before = psutil.Process().num_fds()
    require_descriptors(ZEROMQ)
    assert psutil.Process().num_fds() == before


def test_too_few_are_said_with_their_number_and_none_stays_open() -> None:
    process = psutil.Process()
    before, limits = process.num_fds(), process.rlimit(psutil.RLIMIT_NOFILE)
    numbers = max(int(entry.fd) for entry in process.open_files()) if process.open_files() else 0
    process.rlimit(psutil.RLIMIT_NOFILE, (max(numbers, before) + 3, limits[1]))
    try:
        with pytest.raises(WorkerError, match=r"may open \d+ more files, and 1000 are needed"):
            require_descriptors(1000)
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert process.num_fds() == before
