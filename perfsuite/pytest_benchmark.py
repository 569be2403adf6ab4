"""What the gate measured, told to pytest-benchmark: its table, its storage and its JSON hold it too.

Its loop is run on a clock of ours that goes on by what each run took in the measured processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from perfsuite.gate.outcome import Outcome
from perfsuite.history.runs import extra_info


class _Replay:
    """A clock that stands still but for ``run``, which moves it on by the next recorded seconds."""

    def __init__(self, seconds: Iterator[float]) -> None:
        self._seconds, self._now = seconds, 0.0

    def __call__(self) -> float:
        return self._now

    def run(self) -> None:
        self._now += next(self._seconds)


def replay(request: pytest.FixtureRequest, outcome: Outcome, machine: Any, *, slowed: bool) -> None:
    """Add ``outcome`` to pytest-benchmark's results, if it is there and in use.

    A sample of its table is one process's median call. It takes one result a test: the first gate's.
    """
    config, node = request.config, request.node
    if not outcome.processes or not config.pluginmanager.hasplugin("benchmark"):
        return
    if getattr(config.option, "benchmark_disable", False) or "benchmark" in node.funcargs:
        return
    if node.stash.get(_REPLAYED, False):
        return
    node.stash[_REPLAYED] = True
    seconds = [process.subject_s for process in outcome.shown]
    clock = _Replay(iter(seconds))
    node.add_marker(pytest.mark.benchmark(timer=clock))
    benchmark: Any = request.getfixturevalue("benchmark")
    benchmark.pedantic(clock.run, rounds=len(seconds))
    benchmark.extra_info.update(
        extra_info(
            outcome.as_json(samples=False),
            subject=outcome.name,
            machine=machine,
            workload=dict(outcome.workload),
            slowed=slowed,
        )
    )


_REPLAYED = pytest.StashKey[bool]()
