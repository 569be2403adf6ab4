"""The gate as a pytest plugin: ``pytest_plugins = ["perfsuite.plugin"]`` in a root ``conftest.py``.

A test gates one stage by ``latency_gate.stage(name)``, or any callable of its own by
``latency_gate(subject, yardstick)``. It fails in its own call phase when the subject became slower.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from perfsuite.errors import MeasurementError, PerfsuiteError, UsageError
from perfsuite.files import check_writable, write_json
from perfsuite.forked.servers import Workload
from perfsuite.gate import verdicts
from perfsuite.gate.baselines import fingerprint_of
from perfsuite.gate.callables import callable_contender, compute_threads
from perfsuite.gate.deciding import Verdict
from perfsuite.gate.judging import Gate, Outcome, Settings
from perfsuite.gate.pairing import Open, Pairing, run_all
from perfsuite.gate.slowdowns import parse_slowdowns
from perfsuite.gate.stages import StageServers
from perfsuite.history.runs import extra_info
from perfsuite.machine import fingerprint
from runtime import load_checkpoint

_GATE = pytest.StashKey["GateSession"]()

_INI = {
    "perf_baselines": ("file of the baselines, from the root folder", "perfsuite/baselines.json"),
    "perf_model": ("model that the stages run", "tiny"),
    "perf_tokens": ("length of the prompt", "64"),
    "perf_device": ("device of the worker and of the unsplit model", "cpu"),
    "perf_threads": ("compute threads of each process: one is the quietest", "1"),
    "perf_processes": ("fresh processes per look", "12"),
    "perf_looks": ("how often at most more are measured", "3"),
    "perf_time_limit": ("seconds per subject, after which no further look begins", "120"),
    "perf_inconclusive": ("report, or fail", "report"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and ini settings."""
    group = parser.getgroup("perf", "latency gate")
    group.addoption(
        "--update-baselines", action="store_true", help="accept what is measured as the baselines"
    )
    group.addoption(
        "--extend-baselines",
        action="store_true",
        help="add what is measured to the baselines: other speeds of the machine, the same code",
    )
    group.addoption("--perf-baselines", metavar="FILE", help="instead of the ini setting's file")
    group.addoption(
        "--perf-report", metavar="FILE", type=Path, help="write the outcomes there, as JSON"
    )
    group.addoption(
        "--perf-slowdown",
        metavar="NAME[:PHASE]=FACTOR",
        action="append",
        default=[],
        help="make a subject really slower, to see the gate go red",
    )
    for name, (text, default) in _INI.items():
        parser.addini(name, f"{text} (default: {default})", default=default)


def pytest_configure(config: pytest.Config) -> None:
    """Check what was asked before anything is measured."""
    try:
        session = GateSession(config)
    except PerfsuiteError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[_GATE] = session
    config.add_cleanup(session.close)


@pytest.fixture
def latency_gate(request: pytest.FixtureRequest) -> Iterator[LatencyGate]:
    """Gate a stage or any callable; see ``LatencyGate``."""
    session = request.config.stash[_GATE]
    if _parallel(request.config):
        pytest.skip("latency is not measured in parallel: run without pytest-xdist's -n")
    with compute_threads(session.threads):
        yield LatencyGate(request, session)


class GateSession:
    """What the tests of one run share."""

    def __init__(self, config: pytest.Config) -> None:
        """Read the settings.

        Raises:
            UsageError: naming the option or ini setting that cannot be used.
        """
        self._config = config
        self._gate: Gate | None = None
        self._servers: StageServers | None = None
        # Whether every test of every file is run, as far as one can see.
        self.whole = not any("::" in argument for argument in config.args)
        self.report: Path | None = config.option.perf_report
        if self.report is not None:
            check_writable(self.report)
        self.slowdowns = parse_slowdowns(config.option.perf_slowdown)
        self.extend: bool = config.option.extend_baselines
        self.update: bool = config.option.update_baselines or self.extend
        if self.update and self.slowdowns:
            raise UsageError("--update-baselines: not together with --perf-slowdown")
        self.fails_inconclusive = self._choice("perf_inconclusive", ("report", "fail")) == "fail"
        self.threads, self.tokens, processes, looks, limit = (
            self._positive(f"perf_{name}")
            for name in ("threads", "tokens", "processes", "looks", "time_limit")
        )
        named = config.option.perf_baselines or config.rootpath / config.getini("perf_baselines")
        self.settings = Settings(
            path=Path(named),
            update=self.update,
            extend=self.extend,
            processes=processes,
            looks=looks,
            time_limit_s=limit,
            seed=int.from_bytes(os.urandom(4)),
        )

    def _positive(self, name: str) -> int:
        text = self._config.getini(name)
        if not text.isdecimal() or int(text) < 1:
            raise UsageError(f"{name} = {text}: must be a positive number")
        return int(text)

    def _choice(self, name: str, choices: Sequence[str]) -> str:
        text: str = self._config.getini(name)
        if text not in choices:
            raise UsageError(f"{name} = {text}: must be one of {', '.join(choices)}")
        return text

    @property
    def outcomes(self) -> list[Outcome]:
        """What has been decided so far."""
        return self._gate.outcomes if self._gate else []

    def unused(self) -> list[str]:
        """Return the baselines of this machine that a whole run did not ask for."""
        if not self.whole or not self.outcomes:
            return []
        return sorted(self.gate.names_here() - {outcome.name for outcome in self.outcomes})

    @property
    def gate(self) -> Gate:
        """The gate of this machine and workload; the baselines are read at its first use."""
        if self._gate is None:
            config = self._config
            workload = {
                "model": config.getini("perf_model"),
                "tokens": self.tokens,
                "device": config.getini("perf_device"),
            }
            machine = fingerprint_of(fingerprint(self.threads))
            self._gate = Gate(self.settings, machine, workload)
        return self._gate

    def stage(self, name: str) -> tuple[Open, Open]:
        """Return what opens the stage, and what opens its yardstick."""
        if self._servers is None:
            config = self._config
            source = load_checkpoint(config.getini("perf_model")).source
            workload = Workload(source, self.tokens, config.getini("perf_device"), self.threads)
            self._servers = StageServers(workload)
        return self._servers.openers(name, self.slowdowns.get(name, {}))

    def close(self) -> None:
        """End every process; the next stage starts new ones."""
        if self._servers is not None:
            self._servers.close()


class LatencyGate:
    """The fixture's value: gates one subject and fails the test that asked."""

    def __init__(self, request: pytest.FixtureRequest, session: GateSession) -> None:
        self._request = request
        self._session = session

    def stage(self, name: str) -> Outcome:
        """Gate a stage of the split model against the unsplit one, in fresh worker processes."""
        return self._check(name, lambda: self._session.stage(name))

    def __call__(
        self,
        subject: Callable[[], object],
        yardstick: Callable[[], object],
        *,
        name: str | None = None,
    ) -> Outcome:
        """Gate ``subject``, any callable, against ``yardstick``: work that is alike and does not change.

        Both run in this process; ``name`` is the baseline's (default: the test's node id).
        """
        node: str = self._request.node.nodeid
        name = name or node
        slowdown = self._session.slowdowns.get(name)
        return self._check(
            name, lambda: (callable_contender(subject, slowdown), callable_contender(yardstick))
        )

    def _check(self, name: str, contenders: Callable[[], tuple[Open, Open]]) -> Outcome:
        node: str = self._request.node.nodeid
        try:
            gate = self._session.gate
            if not self._session.update and not gate.has_baseline(name):
                pytest.fail(
                    f"{name}: no baseline in {gate.settings.path}\n"
                    f"record: pytest '{node}' --update-baselines",
                    pytrace=False,
                )
            outcome = gate.check(name, *contenders(), self._drive(), self._session.close)
        except (UsageError, MeasurementError) as error:
            pytest.fail(str(error), pytrace=False)
        self._tell(outcome)
        outcome.failed = outcome.verdict is Verdict.REGRESSION or (
            outcome.verdict is Verdict.INCONCLUSIVE and self._session.fails_inconclusive
        )
        if outcome.failed:
            pytest.fail(verdicts.failure(outcome, node), pytrace=False)
        return outcome

    def _drive(self) -> Callable[[Pairing], None]:
        """Return pytest-benchmark's loop, so that its table, storage and JSON hold the first look."""
        plugins = self._request.config.pluginmanager
        if not plugins.hasplugin("benchmark") or self._request.config.option.benchmark_disable:
            return run_all
        benchmark = self._request.getfixturevalue("benchmark")
        self._benchmark = benchmark

        def drive(pairing: Pairing) -> None:
            benchmark.pedantic(pairing.run, setup=pairing.prepare, rounds=pairing.runs)

        return drive

    def _tell(self, outcome: Outcome) -> None:
        told = outcome.as_json(samples=False)
        for key, value in told.items():
            if key not in ("name", "phases"):
                self._request.node.user_properties.append((f"perf_{key}", value))
        if hasattr(self, "_benchmark"):
            gate = self._session.gate
            self._benchmark.extra_info.update(
                extra_info(
                    told,
                    subject=outcome.name,
                    machine=fingerprint(self._session.threads),
                    workload=gate.workload,
                    slowed=outcome.name in self._session.slowdowns,
                )
            )
        self._request.node.stash[_OUTCOME] = outcome


_OUTCOME = pytest.StashKey[Outcome]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Note that not every test is run."""
    if items:
        items[0].config.stash[_GATE].whole = False


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report, and fail a whole run that left a baseline unused."""
    gate_session = session.config.stash[_GATE]
    gate_session.whole &= not session.testsfailed and not session.shouldstop
    if session.exitstatus == pytest.ExitCode.OK and gate_session.unused():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if gate_session.report is not None:
        write_json(
            gate_session.report,
            {"subjects": [outcome.as_json() for outcome in gate_session.outcomes]},
        )
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and gate_session.outcomes:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(verdicts.markdown(gate_session.outcomes))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the verdicts."""
    session = config.stash[_GATE]
    if _parallel(config) and not hasattr(config, "workerinput"):
        terminalreporter.section("latency gate")
        terminalreporter.line(
            "LATENCY WAS NOT MEASURED: timing in parallel is refused; run without -n", red=True
        )
        return
    outcomes = session.outcomes
    if not outcomes:
        return
    terminalreporter.section("latency gate")
    gate = session.gate
    if not gate.known_machine:
        terminalreporter.line(
            "this machine and workload have no baselines: judged by the portable ratios, widely"
        )
    for name, factors in session.slowdowns.items():
        terminalreporter.line(f"slowed on purpose: {name}: {factors}")
    head, *lines = verdicts.summary(outcomes)
    terminalreporter.line(head, bold=True)
    for name in session.unused():
        terminalreporter.line(
            f"unused baseline: {name}: no test asked for it; remove it from {gate.settings.path}",
            red=True,
        )
    for line, outcome in zip(lines, outcomes, strict=True):
        red = outcome.verdict is Verdict.REGRESSION
        terminalreporter.line(line, red=red, green=outcome.verdict is Verdict.PASS)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for outcome in outcomes:
            if outcome.verdict in (Verdict.REGRESSION, Verdict.INCONCLUSIVE):
                terminalreporter.line(verdicts.annotation(outcome, str(gate.settings.path)))


def _parallel(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput") or bool(getattr(config.option, "numprocesses", None))
