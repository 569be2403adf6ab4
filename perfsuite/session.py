"""The measuring session: what its tests share, and what becomes of their gates."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from perfsuite import settings
from perfsuite.errors import BenchmarkError
from perfsuite.processes.benchmark import TOTAL, Benchmark
from perfsuite.settings import Settings

if TYPE_CHECKING:
    from perfsuite.bench import Bench
    from perfsuite.gate.outcome import Outcome

GATED = "perf_gated"  # property of the reports of tests with a gate
EXIT_UNJUDGED = 10
"""Exit status of a strict run in which all tests pass, but a gate was not judged against a full baseline."""

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
        self._config = config
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
        if _is_parallel(self._config):
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
            self._bench = Bench(self._config, self.settings, self._gated)
        delays = self._delays_of(benchmark)
        progress = Progress(self._config, benchmark.name)
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
            getattr(self._config.option, name, None)
            for name in ("keyword", "markexpr", "lf", "ignore", "ignore_glob", "deselect")
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the gates that a test did not reach."""
        if not report.skipped or (GATED, True) not in map(tuple, report.user_properties):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
        self._not_reached[report.nodeid] = str(reason).removeprefix("Skipped: ")

    def finish(self, session: pytest.Session) -> int | None:
        """Write the report and the step summary; return the exit status that the outcomes ask for."""
        self.close()
        if hasattr(self._config, "workerinput"):
            return None
        if not (self.outcomes or self._not_reached or self.settings.delays or self.settings.report):
            return None
        self._add_not_measured()
        if self.settings.report is not None:
            from perfsuite.files import write_json

            write_json(self.settings.report, self.as_json(), option="--perf-report")
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary and self.outcomes:
            from perfsuite.gate import views

            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(views.markdown(self.outcomes))
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return None
        if self.unknown_delays:
            return pytest.ExitCode.USAGE_ERROR
        return EXIT_UNJUDGED if self.settings.strict and self.unjudged else None

    def _add_not_measured(self) -> None:
        from perfsuite.gate.outcome import Outcome, Status

        reached = {outcome.node for outcome in self.outcomes}
        self.outcomes += [
            Outcome(node, node, Status.NOT_MEASURED, reason)
            for node, reason in self._not_reached.items()
            if node not in reached
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the run's report."""
        return {
            "command": shlex.join(["pytest", *self._config.invocation_params.args]),
            "whole": self._is_whole,
            "against": self.settings.against,
            "titles": self._bench.titles if self._bench else None,
            "machine": self._bench.machine if self._bench else None,
            "subjects": [outcome.as_json() for outcome in self.outcomes],
        }

    @property
    def unknown_delays(self) -> list[str]:
        """The names that were to be slowed and that no gate had."""
        return sorted(set(self.settings.delays) - self._used_delays)

    @property
    def unjudged(self) -> list[Outcome]:
        """What a strict run does not accept, baselines that no test asked for included."""
        from perfsuite.gate.outcome import JUDGED, Outcome, Status

        unused = [
            Outcome(name, "", Status.NOT_MEASURED, "a stored baseline that no test asked for")
            for name in self.unused
        ]
        return [one for one in self.outcomes if one.status not in JUDGED] + unused

    @property
    def unused(self) -> list[str]:
        """The baselines of this machine that a whole run did not ask for."""
        if not self._is_whole or self._bench is None or self._not_reached:
            return []
        return self._bench.unused({outcome.name for outcome in self.outcomes})

    @property
    def _is_whole(self) -> bool:
        gated = {item.nodeid for item in self._gated}
        return self.whole and gated <= {*self._reached.values(), *self._not_reached}

    def summarize(self, reporter: Any) -> None:
        """Print the outcomes."""
        if hasattr(self._config, "workerinput"):
            return
        if not self.outcomes and not self.settings.delays:
            return
        from perfsuite.gate import views
        from perfsuite.gate.outcome import JUDGED, Status

        reporter.section("latency gate")
        for name, factors in self.settings.delays.items():
            reporter.line(f"slowed on purpose: {name}: {dict(factors)}")
        for name in self.unknown_delays:
            reporter.line(f"--perf-slowdown: no gate is called {name!r}", red=True)
        if self.outcomes:
            head, *lines = views.summary(self.outcomes)
            reporter.line(head, bold=True)
            for line, outcome in zip(lines, self.outcomes, strict=True):
                green = outcome.status in (Status.PASS, Status.IMPROVED)
                reporter.line(line, red=outcome.failed, green=green)
            for note in views.notes(self.outcomes):
                reporter.line(note)
        for name in self.unused if self.settings.strict else ():
            reporter.line(
                f"{name}: a stored baseline that no test asked for: perfsuite baselines prune",
                red=True,
            )
        if self.settings.strict and self.unjudged:
            reporter.line(
                f"strict: {len(self.unjudged)} not judged against a full baseline", red=True
            )
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for outcome in self.outcomes:
                if outcome.failed or outcome.status not in JUDGED:
                    reporter.line(views.annotation(outcome))

    def close(self) -> None:
        """End every process."""
        if self._bench is not None:
            self._bench.close()


class Progress:
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


def _is_parallel(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput") or bool(getattr(config.option, "numprocesses", None))
