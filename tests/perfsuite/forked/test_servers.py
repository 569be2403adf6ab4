from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import psutil
import pytest

import runtime
from perfsuite.errors import MeasurementError
from perfsuite.forked.servers import (
    Server,
    Servers,
    Workload,
    shared_processor,
    start_driver,
    start_unsplit,
)
from perfsuite.llama.results import PHASES

TREE = Path(runtime.__file__).resolve().parents[1]
WORKLOAD = Workload("tiny", 16, "cpu", 1).options


@pytest.fixture(scope="module")
def driver() -> Iterator[Server]:
    with closing(start_driver(TREE, "the runtime", MeasurementError)) as server:
        yield server


@pytest.mark.parametrize("stage", runtime.STAGES)
def test_a_stage_runs_in_two_fresh_processes_and_says_its_phases(
    driver: Server, stage: str
) -> None:
    pids: list[int] = []
    for _ in range(2):
        with driver.opener({"stage": stage, **WORKLOAD})() as contender:
            contender.run()  # the first makes the memory that both share
            timed = contender.run()
            assert {psutil.Process(pid).cpu_affinity()[0] for pid in contender.pids} == {
                shared_processor(1)
            }
            pids += contender.pids
        assert set(timed.phases) == set(PHASES)
        assert sum(timed.phases.values()) == pytest.approx(timed.seconds, rel=0.2)
    assert len(set(pids)) == 4
    running = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert not psutil.wait_procs(running, timeout=2)[1]


@pytest.mark.parametrize("phase", [*PHASES, "total"])
def test_a_slowdown_reaches_both_sides(driver: Server, phase: str) -> None:
    plain, slowed = (
        driver.opener({"stage": "shared-memory", "slowdown": factors, **WORKLOAD})
        for factors in ({}, {phase: 10.0})
    )
    grown = "device" if phase == "total" else phase
    seconds = []
    for opened in (plain, slowed):
        with opened() as contender:
            seconds.append(median(contender.run().phases[grown] for _ in range(7)))
    assert seconds[1] > 3 * seconds[0]


def test_more_threads_get_a_worker_that_the_runtime_starts(driver: Server) -> None:
    workload = {**WORKLOAD, "threads": 2, "cpu": shared_processor(2)}
    with driver.opener({"stage": "fused", **workload})() as contender:
        assert contender.run().seconds > 0
        (worker,) = psutil.Process(contender.pids[0]).children()
        assert worker.pid == contender.pids[1]
        assert worker.environ()["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_unsplit_model_runs_in_fresh_processes(dtype: str) -> None:
    pids: list[int] = []
    with closing(start_unsplit(MeasurementError)) as server:
        for _ in range(2):
            with server.opener({"dtype": dtype, **WORKLOAD})() as contender:
                assert contender.run().seconds > 0
                pids += contender.pids
        assert len({*pids, os.getpid()}) == 3
        assert [timed.phases for timed in server.take_timed()] == [{}, {}]


def test_what_fails_is_told_and_marks_the_server() -> None:
    with closing(start_driver(TREE, "the runtime", MeasurementError)) as server:
        with (
            pytest.raises(MeasurementError, match=r"the runtime: .*nonsense"),
            server.opener({"stage": "nonsense", **WORKLOAD})(),
        ):
            pass
        assert server.failed


def test_pairs_are_used_in_turn_and_replaced_when_they_are_closed() -> None:
    def start() -> tuple[Server, Server]:
        return start_driver(TREE, "the runtime", MeasurementError), start_unsplit(MeasurementError)

    with Servers(start, pairs=2) as servers:
        split, unsplit = servers.openers(
            ({"stage": "fused", **WORKLOAD}, {"dtype": "float32", **WORKLOAD})
        )

        def parents() -> tuple[int, int]:
            with split() as stage, unsplit() as yardstick:
                found = [psutil.Process(one.pids[0]).ppid() for one in (stage, yardstick)]
            return found[0], found[1]

        first, second, third = parents(), parents(), parents()
        assert first == third
        assert len({*first, *second}) == 4
        servers.close()
        assert not any(map(psutil.pid_exists, (*first, *second)))
        assert not {*parents()} & {*first, *second}
