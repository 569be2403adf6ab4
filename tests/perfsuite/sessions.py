"""A measuring session on a bench that measures nothing: whatever outcome is wanted."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from perfsuite import settings
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.processes.benchmark import Benchmark
from perfsuite.session import MeasuringSession
from perfsuite.session_report import SessionReport


class Bench:
    """Gives outcomes by the names of benchmarks, and notes how these were to be slowed."""

    def __init__(self, **statuses: Status) -> None:
        self.statuses = statuses
        self.delays: dict[str, Mapping[str, float]] = {}
        self.machine, self.titles = {"cpu": "a"}, None
        self.closed = 0

    def check(self, item: Any, benchmark: Benchmark, delays: Any, progress: Any) -> Outcome:
        self.delays[benchmark.name] = delays
        status = self.statuses.get(benchmark.name, Status.PASS)
        return Outcome(benchmark.name, item.nodeid, status, "why")

    def unused(self, names: set[str]) -> list[str]:
        return sorted({"stored", "mine"} - names)

    def close(self) -> None:
        self.closed += 1


Made = Callable[..., MeasuringSession]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Return what makes a session with these settings, whose benchmarks have these statuses."""

    def make(
        delays: list[str] | None = None, bench: Bench | None = None, **fields: Any
    ) -> MeasuringSession:
        given = settings.Settings(update=None, baselines=None, report=None)
        given = replace(given, delays=settings.parse_delays(delays or []), **fields)
        monkeypatch.setattr(settings, "read", lambda config: given)
        config = Namespace(
            args_source=pytest.Config.ArgsSource.TESTPATHS,
            option=Namespace(),
            pluginmanager=Namespace(hasplugin=lambda name: False, getplugin=lambda name: None),
        )
        session = MeasuringSession(cast("pytest.Config", config))
        session._bench = cast("Any", bench or Bench())
        return session

    return make


def gate(
    session: MeasuringSession, name: str = "mine", node: str = "test_a.py::test_mine", **fields: Any
) -> Outcome:
    request = Namespace(
        node=Namespace(nodeid=node, user_properties=[]),
        config=session.config,
    )
    return session.gate(cast("Any", request), Benchmark(name, len, **fields))


def collect(session: MeasuringSession, *nodes: str) -> None:
    items = [Namespace(nodeid=node, fixturenames=["latency_gate"]) for node in nodes]
    session.collected(cast("Any", Namespace(items=[*items, Namespace(nodeid="other")])))


def finish(session: MeasuringSession, status: int = 0) -> int | None:
    return SessionReport(session).finish(status)
