"""What a test hands to its gate: the subject, what it is held against, and how it is called.

A *call* is one call of the subject, or one run of a command. A *run* is so many calls in a row that the clock
can time them.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from perfsuite.errors import BenchmarkError

TOTAL = "total"  # the phase that is all of a call
MOST_PREPARED = 1000  # results of ``setup`` that are kept at a time
_RESULTS_OF_NO_RUN: Mapping[Callable[[object], bool], str] = {
    inspect.isgenerator: "a generator: its body has not run",
    inspect.isasyncgen: "an asynchronous generator: its body has not run",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """A program as a subject: each call starts it and waits for it.

    Its output is thrown away; a status other than 0 is an error that shows its last words.
    """

    arguments: tuple[str, ...]
    cwd: Path | None = None
    env: Mapping[str, str] | None = None  # added to the environment

    def __call__(self) -> None:
        """Run it once.

        Raises:
            BenchmarkError: if it cannot be started, or fails.
        """
        environment = None if self.env is None else {**os.environ, **self.env}
        try:
            done = subprocess.run(
                self.arguments,
                cwd=self.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        except OSError as error:
            raise BenchmarkError(f"{self}: cannot be started: {error}") from error
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise BenchmarkError(f"{self}: ended with status {done.returncode}: {words}")

    def __str__(self) -> str:
        return " ".join(self.arguments)


@dataclass(frozen=True)
class Benchmark:
    """One gated subject. ``latency_gate`` documents the fields."""

    name: str
    subject: Callable[..., object]
    reference: Callable[..., object] | None = None
    setup: Callable[[], object] | None = None
    args: tuple[Any, ...] = ()
    phases: Callable[[], Mapping[str, float]] | None = None
    margin: float | None = None  # as a share
    max_s: float | None = None
    quantile: float | None = None
    memory: bool = False
    throughput: float | None = None  # units of work a call, for people
    workload: Mapping[str, str | int] = field(default_factory=dict)
    fork: bool | None = None


class Runner:
    """Times runs of one callable, slower on purpose by ``delay`` times what it takes."""

    def __init__(
        self,
        function: Callable[..., object],
        *,
        setup: Callable[[], object] | None = None,
        args: tuple[Any, ...] = (),
        phases: Callable[[], Mapping[str, float]] | None = None,
        delay: float = 0.0,
    ) -> None:
        self._function, self._setup, self._args, self._delay = function, setup, args, delay
        self._phases = phases
        self._runner: asyncio.Runner | None = None
        self._thread: _Thread | None = None

    def first(self) -> None:
        """Call it once, and find out what kind of callable it is.

        Raises:
            BenchmarkError: if what it returns shows that nothing was run, or a child that it forked returns as well.
        """
        with _copies_ended(self._function):
            result = self._function(*self._arguments())
        for check, words in _RESULTS_OF_NO_RUN.items():
            if check(result):
                raise BenchmarkError(
                    f"{_name(self._function)} returns {words}; exhaust it in the subject"
                )
        if inspect.isawaitable(result):
            self._begin_loop()
            with _copies_ended(self._function):
                self._in_loop(lambda runner: runner.run(_await(result)))

    def run(self, loops: int) -> tuple[float, Mapping[str, float]]:
        """Make ``loops`` calls; return the seconds of one, and of its phases in the last one."""
        process = os.getpid()
        try:
            return self._run(loops)
        finally:
            if os.getpid() != process:  # a copy, as below, of a call that was not the first
                os._exit(1)

    def _run(self, loops: int) -> tuple[float, Mapping[str, float]]:
        if self._runner is not None:
            seconds = self._in_loop(lambda runner: runner.run(self._awaited(loops)))
        elif self._setup is not None:
            seconds = self._prepared(loops)
        else:
            seconds = self._plain(loops)
        phases = {} if self._phases is None else dict(self._phases())
        return seconds / loops, phases

    def close(self) -> None:
        """End the event loop, where there is one."""
        if self._runner is not None:
            self._in_loop(lambda runner: runner.close())
            self._runner = None
        if self._thread is not None:
            self._thread.close()

    def _plain(self, loops: int) -> float:
        function, args = self._function, self._args
        repeat = itertools.repeat(None, loops)
        if args:
            started = time.perf_counter()
            for _ in repeat:
                function(*args)
        else:
            started = time.perf_counter()
            for _ in repeat:
                function()
        return self._delayed(started)

    def _prepared(self, loops: int) -> float:
        function, seconds = self._function, 0.0
        for given in self._batches(loops):
            started = time.perf_counter()
            for arguments in given:
                function(*arguments)
            seconds += self._delayed(started)
            del given  # before the next are made
        return seconds

    async def _awaited(self, loops: int) -> float:
        function, seconds = self._function, 0.0
        for given in self._batches(loops):
            started = time.perf_counter()
            for arguments in given:
                await function(*arguments)  # type: ignore[misc]
            seconds += self._delayed(started)
            del given
        return seconds

    def _batches(self, loops: int) -> Iterator[list[tuple[Any, ...]]]:
        """Make the arguments of ``loops`` calls, some at a time: all that is consumed, before the clock starts."""
        for start in range(0, loops, MOST_PREPARED):
            yield [self._arguments() for _ in range(min(MOST_PREPARED, loops - start))]

    def _delayed(self, started: float) -> float:
        """Return the seconds since ``started``, after a wait where slowness was asked for."""
        seconds = time.perf_counter() - started
        if self._delay:
            until = started + seconds * (1 + self._delay)
            while time.perf_counter() < until:
                pass
            return time.perf_counter() - started
        return seconds

    def _arguments(self) -> tuple[Any, ...]:
        if self._setup is None:
            return self._args
        made = self._setup()
        return self._args if made is None else (made, *self._args)

    def _begin_loop(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:  # the test itself runs in a loop, and a thread has one at most
            self._thread = _Thread()
        self._runner = asyncio.Runner()

    def _in_loop(self, use: Callable[[asyncio.Runner], T]) -> T:
        runner = self._runner
        if runner is None:
            raise BenchmarkError(f"{_name(self._function)}: has no event loop")
        return use(runner) if self._thread is None else self._thread.call(lambda: use(runner))


class _Thread:
    """A thread that calls what it is given, one after the other."""

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._executor = ThreadPoolExecutor(1, thread_name_prefix="latency-gate")

    def call(self, function: Callable[[], T]) -> T:
        return self._executor.submit(function).result()

    def close(self) -> None:
        self._executor.shutdown()


@contextmanager
def _copies_ended(function: object) -> Iterator[None]:
    """End whatever copy of this process leaves the block, as returning or raising: it would go on as if it were this.

    Raises:
        BenchmarkError: in this process, where one did.
    """
    process = os.getpid()
    told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield
    finally:
        if os.getpid() != process:
            os.write(tell, b"x")
            os._exit(1)
        os.close(tell)
        try:
            copied = bool(os.read(told, 1))
        except BlockingIOError:  # a child that goes on by itself has the other end
            copied = False
        os.close(told)
    if copied:
        raise BenchmarkError(
            f"{_name(function)} forks, and its child returns as well: end it with os._exit"
        )


async def _await(awaitable: Any) -> None:
    await awaitable


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or str(function)


def check(benchmark: Benchmark) -> Benchmark:
    """Return ``benchmark`` if it can be measured.

    Raises:
        BenchmarkError: naming the argument that cannot be used, and why.
    """
    given: object = benchmark.name
    name = str(given)
    if not isinstance(given, str) or not name.strip() or not name.isprintable():
        raise BenchmarkError(f"latency_gate(name={given!r}): must be a printable text in one line")
    for argument in ("subject", "reference", "setup", "phases"):
        value = getattr(benchmark, argument)
        if not callable(value) and (value is not None or argument == "subject"):
            raise BenchmarkError(f"{name}: {argument}={value!r}: cannot be called")
        if value is None:
            continue
        if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
            raise BenchmarkError(
                f"{name}: {argument} {_name(value)} is a generator function: a call runs nothing of it; "
                "exhaust it in a function of your own"
            )
    for argument in ("setup", "phases"):
        if inspect.iscoroutinefunction(getattr(benchmark, argument)):
            raise BenchmarkError(f"{name}: {argument} is a coroutine function: must be a plain one")
    _check_number(name, "margin", benchmark.margin, most=100.0)
    _check_number(name, "max_ms", benchmark.max_s)
    _check_number(name, "throughput", benchmark.throughput)
    if benchmark.quantile is not None and not 0.5 <= benchmark.quantile < 1:
        raise BenchmarkError(f"{name}: quantile={benchmark.quantile!r}: must lie in [0.5, 1)")
    return benchmark


def _check_number(name: str, argument: str, value: object, most: float = math.inf) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise BenchmarkError(f"{name}: {argument}={value!r}: must be a positive number")


def command(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Command:
    """Return the subject that runs a program.

    Raises:
        BenchmarkError: if ``arguments`` is a text, or empty.
    """
    given: object = arguments
    if isinstance(given, str | bytes) or not arguments:
        raise BenchmarkError(
            f"latency_gate.command({arguments!r}): must be a list: the program and its arguments"
        )
    return Command(
        tuple(os.fspath(argument) for argument in arguments),
        None if cwd is None else Path(cwd),
        env,
    )
