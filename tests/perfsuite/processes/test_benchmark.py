"""Callables of every shape: how they are called, what is timed, and what is refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from perfsuite.errors import BenchmarkError
from perfsuite.processes.benchmark import Benchmark, Runner, check, command


def test_a_run_makes_as_many_calls_as_asked_and_gives_the_seconds_of_one() -> None:
    calls: list[tuple[Any, ...]] = []
    runner = Runner(lambda *given: calls.append(given), args=(1, 2))
    runner.first()
    seconds, phases = runner.run(7)
    assert calls == [(1, 2)] * 8
    assert 0 < seconds < 1
    assert phases == {}


def test_setup_runs_before_each_call_and_its_result_is_the_first_argument() -> None:
    made: list[list[int]] = []

    def setup() -> list[int]:
        made.append([3, 1, 2])
        return made[-1]

    seen: list[list[int]] = []

    def subject(numbers: list[int], more: int) -> None:
        seen.append(list(numbers))
        numbers.clear()

    runner = Runner(subject, setup=setup, args=(5,))
    runner.first()
    runner.run(4)
    assert seen == [[3, 1, 2]] * 5
    assert len(made) == 5


def test_setup_that_returns_nothing_passes_nothing_on() -> None:
    runner = Runner(lambda: None, setup=lambda: None)
    runner.first()
    runner.run(2)


def test_setup_is_not_timed_and_not_all_prepared_at_once() -> None:
    import time

    alive = 0
    most = 0

    class Made:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    runner = Runner(lambda made: None, setup=Made)
    runner.first()
    runner.run(2500)
    assert most <= 1001
    slow = Runner(lambda: None, setup=lambda: time.sleep(1e-3))
    assert slow.run(5)[0] < 5e-4


def test_coroutine_functions_are_awaited_in_one_loop() -> None:
    loops = set()

    async def subject() -> None:
        await asyncio.sleep(0)
        loops.add(asyncio.get_running_loop())

    runner = Runner(subject)
    runner.first()
    runner.run(3)
    runner.close()
    assert len(loops) == 1


def test_a_plain_function_that_returns_a_coroutine_is_awaited_too() -> None:
    done = []

    async def work(value: int) -> None:
        done.append(value)

    runner = Runner(lambda: work(3))
    runner.first()
    runner.run(2)
    runner.close()
    assert done == [3, 3, 3]


def test_coroutines_inside_a_running_loop_get_a_loop_of_their_own() -> None:
    async def subject() -> None:
        await asyncio.sleep(0)

    async def test() -> float:
        runner = Runner(subject)
        runner.first()
        seconds, _ = runner.run(2)
        runner.close()
        return seconds

    assert asyncio.run(test()) > 0


def _generator() -> Iterator[int]:
    yield 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [_generator, _async_generator])
def test_generators_are_refused_by_name(function: Any) -> None:
    with pytest.raises(BenchmarkError, match=f"subject {function.__name__} is a generator"):
        check(Benchmark("it", function))
    with pytest.raises(BenchmarkError, match="its body has not run"):
        Runner(function).first()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": 7}, "name=7"),
        ({"name": ""}, "name=''"),
        ({"name": "two\nlines"}, "one line"),
        ({"subject": 3}, "subject=3: cannot be called"),
        ({"reference": "x"}, "reference='x': cannot be called"),
        ({"margin": -0.1}, "margin"),
        ({"max_s": 0}, "max_ms"),
        ({"quantile": 1.0}, "quantile"),
        ({"quantile": 0.2}, "quantile"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is(fields: Any, words: str) -> None:
    with pytest.raises(BenchmarkError, match=words):
        check(Benchmark(**{"name": "it", "subject": len, **fields}))


def test_a_command_is_run_and_its_failure_told(tmp_path: Path) -> None:
    runner = Runner(command([sys.executable, "-c", "open('made', 'a').write('x')"], cwd=tmp_path))
    runner.first()
    runner.run(2)
    assert (tmp_path / "made").read_text() == "xxx"
    failing = command([sys.executable, "-c", "import sys; sys.exit('no such thing')"])
    with pytest.raises(BenchmarkError, match="status 1: no such thing"):
        failing()
    with pytest.raises(BenchmarkError, match="cannot be started"):
        command(["/no/such/program"])()
    with pytest.raises(BenchmarkError, match="must be a list"):
        command("ls -l")


def test_a_delay_makes_each_run_longer_by_its_share() -> None:
    import time

    runner = Runner(lambda: time.sleep(2e-3), delay=1.0)
    assert runner.run(2)[0] >= 4e-3
