from __future__ import annotations

import sys

import psutil
import pytest

from perfsuite.errors import PerfsuiteError, UnsplitError
from perfsuite.processes.program import Program

ECHO = """
import socket, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
channel = socket.socket(fileno=int(sys.argv[1]))
channel.sendall(b'{"child": %d}\\n' % child.pid)
print("what is printed is no answer", flush=True)
while data := channel.recv(1 << 16):
    channel.sendall(data)
"""


def talk(script: str, error: type[PerfsuiteError] = UnsplitError) -> Program:
    return Program([sys.executable, "-c", script], "the program", error)


def test_what_is_sent_is_answered_in_order() -> None:
    with talk(ECHO) as program:
        program.receive(10)
        for number in range(2):
            program.send({"number": number})
        assert [program.receive(10) for _ in range(2)] == [{"number": 0}, {"number": 1}]
        assert not program.failed


def test_its_children_end_with_it() -> None:
    with talk(ECHO) as program:
        pids = [program.pid, program.receive(10)["child"]]
        assert all(map(psutil.pid_exists, pids))
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], 2)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    program.close()


def test_a_refusal_is_an_error_of_the_callers_kind() -> None:
    with talk(ECHO) as program:
        program.receive(10)
        with pytest.raises(UnsplitError, match=r"^the program: not today$"):
            program.ask({"error": "not today"}, 10)


def test_a_missed_deadline_is_an_error() -> None:
    with talk(ECHO) as program:
        program.receive(10)
        with pytest.raises(UnsplitError, match="did not answer within its deadline"):
            program.receive(0.01)
        assert program.failed


def test_a_death_is_told_with_the_end_of_its_output() -> None:
    with (
        talk("import sys; sys.exit('no, thanks')") as program,
        pytest.raises(UnsplitError, match="ended with status 1: no, thanks"),
    ):
        program.receive(10)
