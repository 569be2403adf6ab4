"""Keeps this process's idle OpenMP threads off the cores that the worker computes on.

After each parallel region GNU OpenMP's threads spin for milliseconds before they sleep, and the worker's
turn begins at once. How long they spin is read from the environment when the library is loaded, which is
the user's affair, but the library itself spins a few microseconds only as long as it manages more threads
than there are cores. So idle teams of threads are kept while a worker is in use: they only sleep, and when
they end everything is as it was.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

import torch

_REGION_ELEMENTS = 1 << 18  # enough for torch to split an operation among its threads


class IdleTeams:
    """A context in which waiting OpenMP threads of this process sleep instead of spinning."""

    def __enter__(self) -> Self:
        self._end = threading.Event()
        threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
        # This thread's team counts for `threads`, each further one for one less.
        teams = 0 if threads == 1 else max(0, cores - threads) // (threads - 1) + 1
        self._holders = [
            threading.Thread(target=self._hold, name="idle-team", daemon=True) for _ in range(teams)
        ]
        for holder in self._holders:
            holder.start()
        return self

    def _hold(self) -> None:
        torch.zeros(_REGION_ELEMENTS).add_(1)  # makes this thread's team
        self._end.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        for holder in self._holders:
            holder.join()
