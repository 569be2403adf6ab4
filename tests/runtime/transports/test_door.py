"""Strangers at a tcp port: connections that say nothing, or nonsense, and more of them than there are descriptors."""

from __future__ import annotations

import gc
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil
import pytest
import zmq

from runtime import SplitLlama
from runtime.errors import EndpointError, WorkerBusy
from runtime.transports.curve import generate
from runtime.transports.door import HANDSHAKE_S, MOST_INSIDE
from runtime.transports.endpoints import Endpoint
from runtime.transports.registry import TRANSPORTS, serve
from runtime.transports.zmq_msgpack import MsgpackServer
from tests.runtime.peers import (
    PATIENCE_S,
    RawZmq,
    RealWorker,
    end,
    free_port,
    start_worker,
    tiny,
    wait_until,
)

PROMPT = [1, 2, 3]
DESCRIPTORS = 64
STRANGERS = 100


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


class Crowd:
    """Connections to a port, as many as its kernel takes; each says ``word`` and stays."""

    def __init__(self, port: int, count: int, word: bytes) -> None:
        self._open = [socket.socket() for _ in range(count)]
        for one in self._open:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
        self._word = word

    def speak(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.send(self._word)

    def close(self) -> None:
        for one in self._open:
            one.close()


class Guarded:
    """A worker with keys and few descriptors."""

    def __init__(self, keys: Path) -> None:
        self.keys, self.port = keys, free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self.process = start_worker(
            *("--model", "tiny", "--endpoint", self.endpoint, "--keys", str(keys)),
            preexec_fn=few_descriptors,
        )
        self.watched = psutil.Process(self.process.pid)

    def launch(self) -> SplitLlama:
        return SplitLlama.launch(
            tiny(), "baseline", endpoint=self.endpoint, keys=self.keys, timeout_s=PATIENCE_S
        )

    def serves(self) -> bool:
        with suppress(Exception), self.launch() as llama:
            return bool(llama.forward(PROMPT).isfinite().all())
        return False

    def busy_share(self, seconds: float) -> float:
        """The share of one core that the worker uses while nobody asks it for anything."""
        before, started = self.watched.cpu_times(), time.monotonic()
        time.sleep(seconds)
        after, took = self.watched.cpu_times(), time.monotonic() - started
        return (after.user + after.system - before.user - before.system) / took


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    worker = Guarded(generate(tmp_path_factory.mktemp("door") / "keys"))
    assert wait_until(worker.serves, 3 * PATIENCE_S)
    yield worker
    end(worker.process)


WORDS = {"silent": b"", "one byte": b"\xff", "nonsense": b"GET / HTTP/1.1\r\n\r\n"}


@pytest.mark.parametrize("word", WORDS)
def test_connections_that_never_prove_a_key_neither_use_the_descriptors_nor_a_core(
    guarded: Guarded, word: str
) -> None:
    assert guarded.busy_share(0.5) < 0.3
    with closing(Crowd(guarded.port, STRANGERS, WORDS[word])) as crowd:
        for _ in range(3):
            crowd.speak()
            assert guarded.busy_share(0.7) < 0.3
            # On a busy machine ZeroMQ may take them before the door is shut, but never for longer than this.
            assert wait_until(lambda: guarded.watched.num_fds() < DESCRIPTORS, 2 * HANDSHAKE_S)
        crowd.speak()
        assert wait_until(guarded.serves, 3 * PATIENCE_S)  # as soon as some of them were sent away
    assert guarded.serves()


def test_a_conversation_goes_on_while_strangers_crowd_the_door(guarded: Guarded) -> None:
    with guarded.launch() as llama:
        before = llama.forward(PROMPT)
        with closing(Crowd(guarded.port, STRANGERS, b"\xff")) as crowd:
            for _ in range(20):
                crowd.speak()
                assert llama.forward(PROMPT).equal(before)


# The door itself -----------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(port: int) -> Iterator[MsgpackServer]:
    with closing(MsgpackServer(Endpoint("tcp", f"127.0.0.1:{port}"))) as one:
        yield one


def comes_in(port: int) -> Callable[[], bool]:
    def try_it() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2) as one:
            one.sendall(b"\xff")
            one.settimeout(0.2)
            return bool(one.recv(1))  # ZeroMQ's greeting
        return False

    return try_it


def test_no_more_come_in_at_a_time_than_are_borne(
    server: MsgpackServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = server._door._inside
    with ExitStack() as crowd:
        for _ in range(MOST_INSIDE):
            one = crowd.enter_context(socket.create_connection(("127.0.0.1", port), 2))
            one.sendall(b"\xff")
        assert wait_until(lambda: len(inside) == MOST_INSIDE)
        assert wait_until(lambda: server._door._shut)
        assert not comes_in(port)()
        assert len(inside) <= MOST_INSIDE
    assert wait_until(comes_in(port))


def test_who_says_nothing_leaves_no_trace(server: MsgpackServer, port: int) -> None:
    with ExitStack() as crowd:
        for _ in range(8):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port), 2))
        time.sleep(0.3)
        assert not server._door._inside


def test_who_went_before_its_message_was_read_does_not_stand_in_the_way(
    server: MsgpackServer, port: int
) -> None:
    def say(word: bytes) -> RawZmq:
        client = RawZmq(f"tcp://127.0.0.1:{port}", tiny(), "baseline")
        client.send(word)
        assert wait_until(lambda: server._socket.poll(0) != 0)
        return client

    say(b"gone").close()
    assert wait_until(lambda: not server._door._inside)
    assert bytes(server.receive()) == b"gone"
    server.keep()
    with socket.create_connection(("127.0.0.1", port), 2) as between:
        # It takes the descriptor that has become free, so that the next has another.
        between.sendall(b"\xff")
        assert wait_until(lambda: len(server._door._inside) == 1)
        with closing(say(b"next")):
            between.close()
            assert wait_until(lambda: len(server._door._inside) == 1)
            assert bytes(server.receive()) == b"next"
            assert not server.taken


def test_who_proves_nothing_is_sent_away(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.transports.zmq_sockets.HANDSHAKE_S", 0.2)
    with (
        closing(MsgpackServer(Endpoint("tcp", f"127.0.0.1:{port}"))) as server,
        socket.create_connection(("127.0.0.1", port), 2) as stranger,
    ):
        stranger.settimeout(PATIENCE_S)
        stranger.sendall(b"\xff")
        while stranger.recv(100):
            pass
        assert wait_until(lambda: not server._door._inside)


def test_without_descriptors_whoever_waits_is_sent_away_and_others_come_later(
    server: MsgpackServer, port: int
) -> None:
    gc.collect()  # or what earlier tests dropped is closed meanwhile, and its descriptors are free
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    with ExitStack() as opened:
        crowd = [opened.enter_context(socket.socket()) for _ in range(4)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (crowd[-1].fileno() + 64, hard))
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(crowd[0].fileno()))
            greeted = 0
            for waiting in crowd:
                waiting.settimeout(PATIENCE_S)
                waiting.connect(("127.0.0.1", port))
                with suppress(ConnectionError):
                    waiting.sendall(b"\xff")
                    greeted += bool(waiting.recv(100))
            # What is kept for sending them away is free for a moment, and ZeroMQ may be quicker to take it.
            assert greeted < len(crowd)
            opened.close()
            assert wait_until(lambda: server._door._spare is not None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
    assert wait_until(comes_in(port))


def inherits(*listening: socket.socket) -> list[str]:
    return [f"fd://{os.dup(one.fileno())}" for one in listening]


def test_of_what_is_inherited_only_a_tcp_listener_is_served(tmp_path: Path) -> None:
    with (
        socket.socket() as idle,
        socket.socket(socket.AF_UNIX) as by_path,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        by_path.bind(str(tmp_path / "s"))
        by_path.listen()
        for endpoint in inherits(idle, by_path, datagrams):
            with pytest.raises(EndpointError, match="does not listen at a tcp address"):
                serve(endpoint, "zmq-frames")


def test_no_other_process_can_take_the_port_of_a_worker_that_starts() -> None:
    """What it would receive is the prompt."""
    transport = TRANSPORTS["zmq-frames"]
    with transport.meet("tcp") as meeting, closing(meeting.connect()) as client:
        with socket.socket(fileno=os.dup(meeting.descriptors[0])) as listener:
            with pytest.raises(OSError, match="in use"):
                socket.create_server(listener.getsockname()).close()
            (inherited,) = inherits(listener)
        with closing(next(serve(inherited, "zmq-frames"))) as server:
            client.send(b"the first that is said")
            assert bytes(server.receive()) == b"the first that is said"


# Turns ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker() -> Iterator[RealWorker]:
    with RealWorker("baseline", f"tcp://127.0.0.1:{free_port()}") as running:
        yield running


def test_a_second_client_is_told_that_the_worker_serves_another(worker: RealWorker) -> None:
    with worker.launch() as first:
        before = first.forward(PROMPT)
        with pytest.raises(WorkerBusy, match="serves another client"):
            SplitLlama.launch(tiny(), "baseline", endpoint=worker.endpoint, start_timeout_s=0.3)
        assert first.forward(PROMPT).equal(before)
    with worker.launch() as second:
        assert second.forward(PROMPT).equal(before)


def test_whoever_waits_is_served_when_the_first_has_gone(worker: RealWorker) -> None:
    first = worker.launch()
    try:
        with RawZmq(worker.endpoint, tiny(), "baseline") as other:
            answer = other.exchange({"hello": other._hello})
            assert answer["error"]["kind"] == "busy"
            first.close()
            assert other.greet()["session"]
    finally:
        first.close()


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x80", b"x" * 100_000], ids=len)
def test_nothing_that_a_stranger_says_ends_the_conversation(worker: RealWorker, raw: bytes) -> None:
    with worker.launch() as llama:
        before = llama.forward(PROMPT)
        with RawZmq(worker.endpoint, tiny(), "baseline") as stranger:
            assert stranger.exchange(raw)["error"]["kind"] == "busy"
        assert llama.forward(PROMPT).equal(before)


def test_a_stranger_that_asks_nothing_of_a_request_is_ignored(worker: RealWorker) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(worker.endpoint)
        for parts in ([b"x"], [b"x", b"y"], [b"x" * 1000] * 20):
            stranger.send_multipart(parts)
        with worker.launch() as llama:
            assert llama.forward(PROMPT).isfinite().all()
        assert not stranger.poll(0)
