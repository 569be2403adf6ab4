"""The measuring session: what its tests share, and what each of their gates does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from perfsuite import settings
from perfsuite.errors import BenchmarkError
from perfsuite.gate_progress import GateProgress
from perfsuite.processes.benchmark import TOTAL, Benchmark
from perfsuite.settings import Settings

if TYPE_CHECKING:
    from perfsuite.bench import Bench
    from perfsuite.gate.outcome import Outcome

GATED = "perf_gated"  # property of the reports of tests with a gate
_PARALLEL = "latency is not measured in parallel: run without pytest-xdist's -n"
_PLATFORM = "latency is measured on Linux only, for now: this gate is skipped on {}"
_ALL = "*"


class MeasuringSession:
    """What the gates of one run share; also a plugin, which reads the reports of its tests."""

    def __init__(self, config: pytest.Config) -> None:
        """Read the settings.

        Raises:
            UsageError: naming the option or ini setting that cannot be used.
        """
        self.config = config
        self.settings: Settings = settings.read(config)
        self.outcomes: list[Outcome] = []
        # Whether every test of every file is run, as far as one can see.
        self.whole = config.args_source is not pytest.Config.ArgsSource.ARGS
        self._gated: list[pytest.Item] = []  # tests with a gate
        self._reached: dict[str, str] = {}  # node id by the names of gates
        self._bench: Bench | None = None
        self._not_reached: dict[str, str] = {}  # reason by node id
        self._used_delays: set[str] = set()
        self._slowed: set[str] = set()  # names of gates

    # The session as the fixture sees it.

    def delays(self, name: str) -> Mapping[str, float]:
        """Return no factors: what is slowed on purpose is what is measured, not this session's own."""
        return {}

    def gate(self, request: pytest.FixtureRequest, benchmark: Benchmark) -> Outcome:
        """Measure and judge ``benchmark``; in update mode record it. Fails the test if it became slower.

        Raises:
            BenchmarkError: if it cannot be measured.
        """
        if _is_parallel(self.config):
            pytest.skip(_PARALLEL)
        if sys.platform != "linux":
            pytest.skip(_PLATFORM.format(sys.platform))
        item: pytest.Item = request.node
        before = self._reached.setdefault(benchmark.name, item.nodeid)
        if before != item.nodeid:
            raise BenchmarkError(
                f"{benchmark.name}: two tests have a gate of this name: {before} and {item.nodeid}; "
                "give each a name= of its own"
            )
        outcome = self._measure(item, benchmark)
        outcome.failed = self._is_failure(outcome)
        self.outcomes = [one for one in self.outcomes if one.name != outcome.name]  # a rerun's
        self.outcomes.append(outcome)
        self._tell(request, outcome)
        if outcome.failed:
            from perfsuite.gate import views

            pytest.fail(views.failure(outcome, self.settings.against), pytrace=False)
        return outcome

    def _is_failure(self, outcome: Outcome) -> bool:
        from perfsuite.gate.outcome import FAILED, UNDECIDED

        undecided_fails = self.settings.inconclusive_fails
        return outcome.status in FAILED or (undecided_fails and outcome.status in UNDECIDED)

    def _measure(self, item: pytest.Item, benchmark: Benchmark) -> Outcome:
        from perfsuite.bench import Bench
        from perfsuite.processes.forkserver import FailedTest

        if self._bench is None:
            self._bench = Bench(self.config, self.settings, self._gated)
        delays = self._delays_of(benchmark)
        progress = GateProgress(self.config, benchmark.name)
        try:
            return self._bench.check(item, benchmark, delays, progress)
        except FailedTest as error:
            failure = error
        self._raise_here(benchmark)
        raise BenchmarkError(
            f"{benchmark.name}: the test fails in the processes that are measured, but not here:\n{failure}"
        )

    @staticmethod
    def _raise_here(benchmark: Benchmark) -> None:
        """Call the subject in this session, so that what it raises is pytest's to handle: xfail, --pdb."""
        from perfsuite.processes.benchmark import Runner

        runner = Runner(benchmark.subject, setup=benchmark.setup, args=benchmark.args)
        try:
            runner.first()
        finally:
            runner.close()

    def _delays_of(self, benchmark: Benchmark) -> Mapping[str, float]:
        found: dict[str, float] = {}
        asked = self.settings.delays
        for name in (_ALL, benchmark.name):
            if name in asked:
                self._used_delays.add(name)
                found |= asked[name]
        # What looks like a phase may be the end of a name.
        head, _, tail = benchmark.name.rpartition(":")
        if tail in asked.get(head, {}):
            self._used_delays.add(head)
            found[TOTAL] = asked[head][tail]
        if found:
            self._slowed.add(benchmark.name)
        phases = [phase for phase in found if phase != TOTAL]
        if phases and benchmark.phases is None:
            raise BenchmarkError(f"--perf-slowdown: {benchmark.name} has no phase {phases[0]!r}")
        return found

    def _tell(self, request: pytest.FixtureRequest, outcome: Outcome) -> None:
        told = outcome.as_json(samples=False)
        for key, value in told.items():
            if key not in ("name", "phases", "notes"):
                request.node.user_properties.append((f"perf_{key}", value))
        from perfsuite import pytest_benchmark

        if self._bench is not None:
            slowed = outcome.name in self._slowed
            pytest_benchmark.replay(request, outcome, self._bench.machine, slowed=slowed)

    # The session as pytest tells of it.

    def collected(self, session: pytest.Session) -> None:
        """Know the tests that have a gate."""
        self._gated = [
            item for item in session.items if "latency_gate" in getattr(item, "fixturenames", ())
        ]
        self.whole &= not any(
            getattr(self.config.option, name, None)
            for name in ("keyword", "markexpr", "lf", "ignore", "ignore_glob", "deselect")
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the gates that a test did not reach."""
        if not report.skipped or (GATED, True) not in map(tuple, report.user_properties):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
        self._not_reached[report.nodeid] = str(reason).removeprefix("Skipped: ")

    @property
    def bench(self) -> Bench | None:
        """What is measured with, once something was."""
        return self._bench

    @property
    def not_reached(self) -> Mapping[str, str]:
        """Why, by the node id of a test that did not reach its gate."""
        return self._not_reached

    @property
    def is_whole(self) -> bool:
        """Whether every test that has a gate was run."""
        gated = {item.nodeid for item in self._gated}
        return self.whole and gated <= {*self._reached.values(), *self._not_reached}

    @property
    def unknown_delays(self) -> list[str]:
        """The names that were to be slowed and that no gate had."""
        return sorted(set(self.settings.delays) - self._used_delays)

    def close(self) -> None:
        """End every process."""
        if self._bench is not None:
            self._bench.close()


def _is_parallel(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput") or bool(getattr(config.option, "numprocesses", None))
