"""The fixture ``latency_gate``, the same in the session that measures and in those that are measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pytest

from perfsuite.errors import BenchmarkError, PerfsuiteError
from perfsuite.processes import benchmark as benchmarks
from perfsuite.processes.benchmark import Benchmark, Command


class Session(Protocol):
    """What a pytest session does with the benchmarks of its tests."""

    def gate(self, request: pytest.FixtureRequest, benchmark: Benchmark) -> Any:
        """Measure and judge ``benchmark``, or serve it to the session that does."""
        ...

    def delays(self, name: str) -> Mapping[str, float]:
        """Return by which factors the phases of ``name`` are to be slowed on purpose."""
        ...


SESSION = pytest.StashKey[Session]()


class LatencyGate:
    """Gates what a test hands to it: ``latency_gate(subject)`` fails the test if the subject became slower.

    The test runs once in this session, up to its gates, and again in each of the fresh processes that are
    measured; what stands before a gate is not timed.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._names: set[str] = set()

    def __call__(
        self,
        subject: Callable[..., object],
        reference: Callable[..., object] | None = None,
        *,
        name: str | None = None,
        setup: Callable[[], object] | None = None,
        args: Sequence[Any] = (),
        margin: float | None = None,
        max_ms: float | None = None,
        quantile: float | None = None,
        throughput: float | None = None,
        memory: bool = False,
        phases: Callable[[], Mapping[str, float]] | None = None,
        workload: Mapping[str, str | int] | None = None,
        fork: bool | None = None,
    ) -> Any:
        """Gate ``subject``: any callable, coroutine function, or ``latency_gate.command([...])``.

        Args:
            subject: What is timed. Coroutine functions are awaited in an event loop of their own.
            reference: Work that is alike and that no change of yours touches; both are measured in turn, and
                their ratio is judged. Default: a built-in reference, chosen when a baseline is recorded.
            name: The benchmark's name in the baselines, unique in a run. Default: the test's node id.
            setup: Called before each call, untimed; its result is the subject's first argument, and the
                reference's, unless it is None.
            args: Further arguments of subject and reference.
            margin: Percent by which the subject may be slower. Default: from the recorded noise.
            max_ms: Milliseconds that a call may take on this machine, whatever was recorded.
            quantile: Judge this quantile of the calls, such as 0.95, instead of their median.
            throughput: Units of work that a call does: shown as units a second.
            memory: Judge the process's peak of resident memory too.
            phases: Called after the last call of a run: seconds by phase, to say where time went.
            workload: What else the figures hang on, such as sizes: part of the baseline's key.
            fork: Fork the measured processes from a server that has imported the test (the default), or start
                each anew, for packages that cannot be forked.

        Returns:
            The outcome: verdict, change, seconds.

        Raises:
            pytest.fail.Exception: if the subject became slower, or cannot be measured.
        """
        node: str = self._request.node.nodeid
        try:
            benchmark = benchmarks.check(
                Benchmark(
                    name=node if name is None else name,
                    subject=subject,
                    reference=reference,
                    setup=setup,
                    args=tuple(args),
                    phases=phases,
                    margin=_scaled("margin", margin, 1e-2),
                    max_s=_scaled("max_ms", max_ms, 1e-3),
                    quantile=quantile,
                    memory=memory,
                    throughput=throughput,
                    workload=dict(workload or {}),
                    fork=fork,
                )
            )
            if benchmark.name in self._names:
                raise BenchmarkError(
                    f"{benchmark.name}: this test has a gate of this name already: give each a name= of its own"
                )
            self._names.add(benchmark.name)
            return self._session.gate(self._request, benchmark)
        except PerfsuiteError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    def command(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Command:
        """Return a subject that runs a program: its arguments, folder, and additions to the environment.

        The time of its process and of all that it starts counts.
        """
        try:
            return benchmarks.command(arguments, cwd=cwd, env=env)
        except BenchmarkError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    def delays(self, name: str) -> Mapping[str, float]:
        """Return the factors, by phase, that ``--perf-slowdown NAME:PHASE=FACTOR`` asks for.

        A test whose subject has phases passes them on to what it measures; factors of the whole call
        are the gate's to apply.
        """
        return self._session.delays(name)

    @property
    def _session(self) -> Session:
        return self._request.config.stash[SESSION]


def _scaled(argument: str, value: float | None, factor: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BenchmarkError(f"latency_gate({argument}={value!r}): must be a number")
    return value * factor


@pytest.fixture
def latency_gate(request: pytest.FixtureRequest) -> LatencyGate:
    """Gate a callable, a coroutine function or a command; see ``LatencyGate``."""
    return LatencyGate(request)


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Have pytest-run-parallel leave a test with a gate alone: in several threads at once nothing can be timed."""
    if "latency_gate" not in getattr(item, "fixturenames", ()):
        return
    if hasattr(item.config.option, "parallel_threads"):
        item.add_marker(pytest.mark.thread_unsafe)
