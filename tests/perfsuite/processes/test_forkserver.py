"""What a server is started with, and what it answers to whom it cannot serve."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perfsuite.errors import BenchmarkError
from perfsuite.processes.forkserver import Server, Target, _environment

TEST = """
import os

def test_it(latency_gate):
    latency_gate(lambda: None, name="it")
"""


@pytest.fixture
def target(tmp_path: Path) -> Target:
    file = tmp_path / "test_it.py"
    file.write_text(TEST)
    arguments = [f"--rootdir={tmp_path}", "-p", "no:cacheprovider"]
    return Target("it", file, arguments, folder=tmp_path)


def test_a_measured_process_neither_watches_itself_nor_reports_as_the_session_does(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COVERAGE_PROCESS_START", "GITHUB_STEP_SUMMARY", "PYTEST_XDIST_WORKER"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MINE", "kept")
    found = _environment(target, 4097)
    assert not {"COVERAGE_PROCESS_START", "GITHUB_STEP_SUMMARY", "PYTEST_XDIST_WORKER"} & set(found)
    assert found["MINE"] == "kept"
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "1"
    assert found["PYTHONHASHSEED"] == "4097"
    assert found["PERFSUITE_PADDING"] == "."  # 4097 modulo the most


def test_the_threads_of_libraries_are_theirs_to_choose_where_none_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    own = Target("it", Path("f"), environment={"PYTHONHASHSEED": "x", "A": "b"}, threads=0)
    found = _environment(own, 3)
    assert found["OMP_NUM_THREADS"] == "7"
    assert found["A"] == "b"
    assert found["PYTHONHASHSEED"] == "3"  # which no target may choose


def test_a_server_is_known_by_its_seed_and_collects_in_the_background(
    target: Target, tmp_path: Path
) -> None:
    with Server(target, tmp_path / "scratch") as one, Server(target, tmp_path / "scratch") as other:
        assert one.name != other.name
        assert int(one.name, 16) > 0
        assert one.nodes == other.nodes == ["test_it.py::test_it"]
        with one.open("test_it.py::test_it", "it", references=[], cpu=None, delays={}) as sampled:
            assert sampled.server == one.name
            loops, seconds = sampled.calibrate("subject", 1e-4)
            assert loops >= 1
            assert seconds > 0
        assert not one.failed


def test_an_interpreter_that_there_is_not_is_said_with_its_target(
    target: Target, tmp_path: Path
) -> None:
    broken = Target(
        "BASE", target.file, target.arguments, folder=tmp_path, python=Path("/bin/false")
    )
    with (
        pytest.raises(BenchmarkError, match="BASE"),
        Server(broken, tmp_path / "scratch") as server,
    ):
        _ = server.nodes


def test_a_server_that_was_killed_has_failed_and_is_not_asked_again(
    target: Target, tmp_path: Path
) -> None:
    with Server(target, tmp_path / "scratch") as server:
        _ = server.nodes
        os.kill(server.pid, 9)
        with (
            pytest.raises(BenchmarkError, match="it"),
            server.open("test_it.py::test_it", "it", references=[], cpu=None, delays={}),
        ):
            pass
        assert server.failed
