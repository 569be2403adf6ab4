"""Sockets of ZeroMQ, for both transports on it: connections that are never opened again."""

from __future__ import annotations

import socket
import time

import pytest
import zmq

from runtime import SplitLlama
from runtime.errors import WorkerDied, WorkerError, WorkerTimeout
from tests.runtime.peers import Footprint, RealWorker, free_port, tiny

AT_ONCE_S = 2.0
PROMPT = [3, 1, 4, 1, 5]


def test_a_listener_that_speaks_another_language_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        before = Footprint.of()
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            SplitLlama.launch(tiny(), endpoint=f"tcp://127.0.0.1:{port}", start_timeout_s=0.5)
        assert time.monotonic() - started < AT_ONCE_S
        assert Footprint.of() == before


def test_a_worker_killed_under_a_remote_client_is_noticed_at_once() -> None:
    with (
        RealWorker("baseline", f"tcp://127.0.0.1:{free_port()}") as worker,
        worker.launch() as llama,
    ):
        llama.forward(PROMPT)
        worker.process.kill()
        started = time.monotonic()
        with pytest.raises(WorkerDied):
            llama.forward(PROMPT)
        assert time.monotonic() - started < AT_ONCE_S


@pytest.mark.parametrize("waited_s", [0.0, 0.5])
def test_whoever_takes_the_port_of_a_worker_that_died_receives_nothing(waited_s: float) -> None:
    """Token ids cross in clear, and ZeroMQ connects again by itself."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with (
        RealWorker("baseline", endpoint) as worker,
        worker.launch() as llama,
        zmq.Context() as context,
        context.socket(zmq.REP) as newcomer,
    ):
        llama.forward([1, 2, 3])
        worker.process.kill()
        worker.process.wait()
        newcomer.setsockopt(zmq.LINGER, 0)
        newcomer.bind(endpoint)
        time.sleep(waited_s)
        with pytest.raises(WorkerDied):
            llama.forward([1, 2, 3])
        with pytest.raises(WorkerError):
            llama.forward([1, 2, 3])
        assert not newcomer.poll(500)
