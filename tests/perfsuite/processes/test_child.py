"""What a measured session does with a user's test: fixtures, parameters, several gates, failures, tracers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perfsuite.errors import BenchmarkError
from perfsuite.processes.forkserver import FailedTest, MissingTest, Sampled
from tests.perfsuite.processes.conftest import Serve

COUNTING = """
    import pytest

    @pytest.fixture
    def log(tmp_path_factory, request):
        lines = []
        yield lines
        with open("log", "a") as file:
            print("torn down", len(lines), file=file)

    @pytest.mark.parametrize("size", [3, 4])
    class TestIt:
        def test_it(self, size, log, latency_gate):
            latency_gate(lambda: log.append(size), lambda: sum(range(1000)), name=f"append {size}")
            raise AssertionError("this line is never reached in a measured process")
"""


def seconds(sampled: Sampled, role: str = "subject") -> list[float]:
    return list(sampled.measure(role, runs=3, loops=2, discarded=1).seconds)


def test_classes_parameters_and_fixtures_are_the_tests_own(serve: Serve) -> None:
    pool = serve(COUNTING)
    assert pool.nodes == ["test_it.py::TestIt::test_it[3]", "test_it.py::TestIt::test_it[4]"]
    with pool.open(pool.nodes[1], "append 4", references=["own"]) as sampled:
        assert len(seconds(sampled)) == 3
        assert all(value > 0 for value in seconds(sampled, "own"))
    # What the test's own fixture set up it also tore down: 1 first call, and 2 calls in each of 4 runs.
    project = Path(pool._target.folder)
    assert (project / "log").read_text() == "torn down 9\n"


def test_each_sample_is_a_process_of_its_own_and_servers_have_hash_seeds_of_theirs(
    serve: Serve,
) -> None:
    pool = serve(
        """
        import os

        def test_it(latency_gate):
            with open("seen", "a") as file:
                print(os.getpid(), os.environ["PYTHONHASHSEED"], hash("text"), file=file)
            latency_gate(lambda: None, name="it")
        """,
        servers=2,
    )
    for _ in range(4):
        with pool.open("test_it.py::test_it", "it") as sampled:
            seconds(sampled)
    lines = (Path(pool._target.folder) / "seen").read_text().split("\n")[:-1]
    pids, seeds, hashes = zip(*(line.split() for line in lines), strict=True)
    assert len(set(pids)) == 4
    assert seeds[:2] == seeds[2:]
    assert len(set(seeds)) == len(set(hashes)) == 2


def test_without_forking_each_sample_is_started_anew(serve: Serve) -> None:
    pool = serve(
        """
        import os
        FILE = open("imported", "a")
        print(os.getpid(), file=FILE, flush=True)

        def test_it(latency_gate):
            latency_gate(lambda: None, name="it")
        """,
        fork=False,
        servers=2,
    )
    for _ in range(3):
        with pool.open("test_it.py::test_it", "it") as sampled:
            assert seconds(sampled)
    assert len(set((Path(pool._target.folder) / "imported").read_text().split())) == 3


def test_several_gates_of_one_test_are_reached_by_name(serve: Serve) -> None:
    pool = serve(
        """
        import time

        def test_it(latency_gate):
            latency_gate(lambda: None, name="fast")
            latency_gate(lambda: time.sleep(2e-3), name="slow")
        """
    )
    for name, least in (("fast", 0.0), ("slow", 2e-3), ("fast", 0.0)):
        with pool.open("test_it.py::test_it", name) as sampled:
            assert min(seconds(sampled)) >= least
    with (
        pytest.raises(FailedTest, match="ended before its gate 'other'"),
        pool.open("test_it.py::test_it", "other"),
    ):
        pass


ODD = """
    import os, signal, sys

    def forked(then):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        else:
            then()

    def fail():
        raise RuntimeError("in the child")

    SUBJECTS = {
        "child returns": lambda: forked(lambda: None),
        "child raises": lambda: forked(fail),
        "exits": lambda: os._exit(0),
        "exits with a status": lambda: os._exit(86 + 1),
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "closes all": lambda: os.closerange(3, 4096),
    }

    def test_odd(latency_gate):
        for name, subject in SUBJECTS.items():
            latency_gate(subject, name=name)

    def test_later(latency_gate):
        calls = []

        def subject():
            calls.append(1)
            if len(calls) == 3:
                os._exit(0)

        latency_gate(subject, name="later")

    def test_forks(latency_gate):
        latency_gate(lambda: forked(lambda: os._exit(0)), name="forks")
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("child returns", "forks, and its child returns as well"),
        ("child raises", "forks, and its child returns as well"),
        ("exits", "ended by itself, with status 0"),
        ("exits with a status", "ended by itself, with status 87"),
        ("killed", "ended by SIGKILL"),
        ("closes all", "ended by itself, with status 1"),
    ],
)
def test_a_subject_that_leaves_its_process_or_doubles_it_is_an_error_at_once(
    serve: Serve, name: str, told: str
) -> None:
    pool = serve(ODD)
    for _ in range(2):  # the server lives on
        with pytest.raises(BenchmarkError, match=told), pool.open("test_it.py::test_odd", name):
            pass


def test_a_subject_that_leaves_its_process_later_is_an_error_too(serve: Serve) -> None:
    pool = serve(ODD)

    def measured() -> None:
        with pool.open("test_it.py::test_later", "later") as sampled:
            for _ in range(3):
                seconds(sampled)

    with pytest.raises(BenchmarkError, match="ended by itself, with status 0"):
        measured()


def test_a_subject_may_fork_if_its_child_ends(serve: Serve) -> None:
    with serve(ODD).open("test_it.py::test_forks", "forks") as sampled:
        assert min(seconds(sampled)) > 0


FAILING = """
    import os, pytest

    def test_first(latency_gate):
        latency_gate(lambda: {}["no such key"], name="it")

    def test_later(latency_gate):
        calls = []
        def subject():
            calls.append(1)
            if len(calls) > 3:
                raise ValueError("the fourth call")
        latency_gate(subject, name="it")

    def test_before(latency_gate):
        pytest.skip("not today")

    @pytest.fixture
    def broken():
        raise OSError("no database")

    def test_fixture(broken, latency_gate):
        latency_gate(lambda: None, name="it")

    def test_teardown(request, latency_gate):
        request.addfinalizer(lambda: 1 / 0)
        latency_gate(lambda: None, name="it")

    def test_killed(latency_gate):
        latency_gate(lambda: os.abort(), name="it")

    def test_good(latency_gate):
        latency_gate(lambda: None, name="it")
"""


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("first", "KeyError: 'no such key'"),
        ("later", "ValueError: the fourth call"),
        ("before", "not today"),
        ("fixture", "OSError: no database"),
        ("teardown", "ZeroDivisionError"),
        ("killed", "SIGABRT"),
    ],
)
def test_a_failure_is_told_with_its_words_and_the_next_sample_is_made(
    serve: Serve, test: str, words: str
) -> None:
    pool = serve(FAILING)
    with (  # noqa: PT012 - where it fails hangs on the test
        pytest.raises(BenchmarkError, match=words),
        pool.open(f"test_it.py::test_{test}", "it") as sampled,
    ):
        seconds(sampled)
        seconds(sampled)
    with pool.open("test_it.py::test_good", "it") as sampled:
        assert seconds(sampled)


def test_a_test_that_the_tree_does_not_have_is_missing(serve: Serve) -> None:
    pool = serve(FAILING)
    with pytest.raises(MissingTest), pool.open("test_it.py::test_other", "it"):
        pass


def test_a_file_that_cannot_be_collected_is_told_with_its_error(serve: Serve) -> None:
    pool = serve("import no_such_module")
    with pytest.raises(BenchmarkError, match="no_such_module"):
        _ = pool.nodes


def test_tracers_of_every_kind_are_switched_off_and_named(serve: Serve) -> None:
    pool = serve(
        """
        import sys

        def test_it(latency_gate):
            sys.settrace(lambda *arguments: None)
            sys.setprofile(lambda *arguments: None)
            def subject():
                assert sys.gettrace() is None and sys.getprofile() is None
            latency_gate(subject, name="it")
        """
    )
    with pool.open("test_it.py::test_it", "it") as sampled:
        assert [note.split()[1] for note in sampled.notes] == ["tracer", "profiler"]
        assert seconds(sampled)


def test_garbage_is_collected_between_blocks_and_peaks_are_known(serve: Serve) -> None:
    pool = serve(
        """
        def test_it(latency_gate):
            def subject():
                one = [bytearray(1 << 20)]
                one.append(one)  # a cycle
            latency_gate(subject, name="it", memory=True)
        """
    )
    with pool.open("test_it.py::test_it", "it") as sampled:
        first = sampled.measure("subject", runs=1, loops=1, discarded=0).peak_bytes
        for _ in range(59):
            sampled.measure("subject", runs=2, loops=5, discarded=0)
        last = sampled.measure("subject", runs=2, loops=5, discarded=0).peak_bytes
        assert first is not None
        assert last is not None
        assert last - first < 40 << 20  # of 600 MB


def test_output_of_the_test_does_not_disturb(serve: Serve) -> None:
    pool = serve(
        """
        import os, sys

        def test_it(latency_gate, capfd):
            print("to stdout")
            os.write(1, b"{}" * 100_000)
            latency_gate(lambda: print("called", file=sys.stderr), name="it")
        """
    )
    with pool.open("test_it.py::test_it", "it") as sampled:
        assert seconds(sampled)


def test_the_measuring_sessions_log_file_is_left_alone(serve: Serve) -> None:
    pool = serve(
        """
        import logging

        def test_it(latency_gate):
            logging.getLogger().warning("from a measured process")
            latency_gate(lambda: None, name="it")
        """,
        arguments=["--log-file=it.log"],
    )
    log = Path(pool._target.folder) / "it.log"
    log.write_text("kept")
    with pool.open("test_it.py::test_it", "it") as sampled:
        assert seconds(sampled)
    assert log.read_text() == "kept"


def test_processes_of_one_processor_run_there(serve: Serve) -> None:
    pool = serve(
        """
        import os

        def test_it(latency_gate):
            def subject():
                assert len(os.sched_getaffinity(0)) == 1
            latency_gate(subject, name="it")
        """
    )
    with pool.open("test_it.py::test_it", "it", cpu=min(os.sched_getaffinity(0))) as sampled:
        assert seconds(sampled)


def test_delays_make_calls_and_phases_slower(serve: Serve) -> None:
    pool = serve(
        """
        import time

        def test_it(latency_gate):
            factor = latency_gate.delays("it").get("part", 1.0)
            latency_gate(lambda: time.sleep(2e-3 * factor), name="it", phases=lambda: {"part": factor})
        """
    )
    with pool.open("test_it.py::test_it", "it", delays={"part": 3.0}) as sampled:
        timed = sampled.measure("subject", runs=2, loops=1, discarded=0)
        assert min(timed.seconds) >= 6e-3
        assert timed.phases == [{"part": 3.0}] * 2
    with pool.open("test_it.py::test_it", "it", delays={"total": 4.0}) as sampled:
        timed = sampled.measure("subject", runs=2, loops=1, discarded=0)
        assert min(timed.seconds) >= 8e-3


def test_threads_that_a_fork_loses_are_told(serve: Serve) -> None:
    pool = serve(
        """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()

        def test_it(latency_gate):
            latency_gate(lambda: None, name="it")
        """
    )
    with pool.open("test_it.py::test_it", "it") as sampled:
        assert "1 threads" in sampled.notes[0]
        assert seconds(sampled)


def test_a_subject_that_never_returns_meets_the_deadline(serve: Serve) -> None:
    pool = serve(
        """
        import threading

        def test_it(latency_gate):
            latency_gate(threading.Event().wait, name="it")
        """,
        timeout_s=1.0,
    )
    with (
        pytest.raises(BenchmarkError, match="within its deadline of 1 s"),
        pool.open("test_it.py::test_it", "it"),
    ):
        pass
