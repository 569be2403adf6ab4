"""What a gate says while it measures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest


class GateProgress:
    """Says on stderr what is measured, once it has taken two seconds, and then every five."""

    def __init__(
        self, config: pytest.Config, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config, self._name, self._clock = config, name, clock
        self._began = clock()
        self._next = 2.0

    def __call__(self, processes: int) -> None:
        """Note that so many processes have been measured."""
        seconds = self._clock() - self._began
        if seconds < self._next:
            return
        self._next = seconds + 5.0
        text = f"latency gate: {self._name}: {processes} processes, {seconds:.0f} s"
        capture = self._config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            print(text, file=sys.stderr, flush=True)
            return
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", file=sys.stderr, end="", flush=True)
