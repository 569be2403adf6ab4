"""Servers in turn, replaced when they have failed, all ended at the end."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from perfsuite.errors import BenchmarkError
from tests.perfsuite.processes.conftest import Serve

NAMING = """
    import os

    def test_it(latency_gate):
        with open("parents", "a") as file:
            print(os.getppid(), file=file)
        if os.path.exists("die"):
            os.kill(os.getppid(), 9)
        latency_gate(lambda: None, name="it")
"""


def parents(folder: Path) -> list[int]:
    return [int(text) for text in (folder / "parents").read_text().split()]


def test_servers_are_used_in_turn_and_replaced_when_asked(serve: Serve, tmp_path: Path) -> None:
    pool = serve(NAMING, servers=2)

    def sample() -> None:
        with pool.open("test_it.py::test_it", "it") as sampled:
            sampled.measure("subject", runs=1, loops=1, discarded=0)

    for _ in range(3):
        sample()
    pool.renew()
    sample()
    first, second, third, fourth = parents(tmp_path / "project")
    assert first == third
    assert len({first, second, fourth}) == 3
    assert not any(map(psutil.pid_exists, (first, second)))
    pool.close()
    assert not psutil.pid_exists(fourth)


def test_a_server_that_died_is_told_and_replaced(serve: Serve, tmp_path: Path) -> None:
    pool = serve(NAMING)
    (tmp_path / "project" / "die").touch()
    with (
        pytest.raises(BenchmarkError, match="it ended with status -9"),
        pool.open("test_it.py::test_it", "it") as sampled,
    ):
        sampled.measure("subject", runs=1, loops=1, discarded=0)
    (tmp_path / "project" / "die").unlink()
    with pool.open("test_it.py::test_it", "it") as sampled:
        assert sampled.measure("subject", runs=1, loops=1, discarded=0).seconds


def test_measured_processes_end_with_whoever_measures(tmp_path: Path) -> None:
    """Even when that is killed, and the subject never returns."""
    import subprocess
    import sys

    (tmp_path / "test_it.py").write_text(
        "import os, time\n"
        "def test_it(latency_gate):\n"
        "    open('pids', 'a').write(f'{os.getpid()} {os.getppid()} ')\n"
        "    latency_gate(lambda: time.sleep(1000), name='it')\n"
    )
    script = (
        "from pathlib import Path\n"
        "from perfsuite.processes.forkserver import Target\n"
        "from perfsuite.processes.pool import Pool\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "target = Target('it', folder / 'test_it.py', [f'--rootdir={folder}'], folder=folder)\n"
        "with Pool(target, folder, servers=1).open('test_it.py::test_it', 'it'): pass\n"
    )
    measuring = subprocess.Popen([sys.executable, "-c", script], cwd=Path.cwd())
    pids = tmp_path / "pids"
    while not pids.exists() or len(pids.read_text().split()) < 2:
        assert measuring.poll() is None
    found = [psutil.Process(int(text)) for text in pids.read_text().split()]
    measuring.kill()
    measuring.wait()
    assert not psutil.wait_procs(found, timeout=5)[1]
