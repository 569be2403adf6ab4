"""Addresses, and workers started by hand: what is wrong is said at once and in one line."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import zmq

from runtime import SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint
from runtime.checkpoints.random_weights import write_random_checkpoint
from runtime.errors import (
    EndpointError,
    HandshakeError,
    InputError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)
from runtime.transports import shared_memory
from runtime.transports.base import ReceiveTimeout
from runtime.transports.endpoints import Endpoint, listen
from runtime.transports.registry import connect, parse_endpoint, serve
from runtime.transports.shared_memory import SharedMemoryServer
from runtime.transports.zmq_msgpack import MsgpackServer
from runtime.worker import main
from tests.runtime.peers import (
    MODEL,
    PATIENCE_S,
    Ending,
    Footprint,
    RealWorker,
    free_port,
    hello,
    run_worker,
    small_checkpoint,
    tiny,
)

AT_ONCE_S = 2.0
PROMPT = [3, 1, 4, 1, 5]


# Addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "transport"),
    [
        ("tcp://127.0.0.1:5555", "zmq-msgpack"),
        ("tcp://localhost:1", "zmq-msgpack"),
        ("tcp://[::1]:65535", "zmq-msgpack"),
        ("ipc:///run/worker", "zmq-msgpack"),
        ("unix:///run/worker", "shared-memory"),
        ("unix://relative", "shared-memory"),
        ("unix:///" + "x" * 106, "shared-memory"),
    ],
)
def test_an_address_reads_as_it_was_written(text: str, transport: str) -> None:
    assert str(parse_endpoint(text, transport)) == text


@pytest.mark.parametrize(
    ("text", "transport", "problem"),
    [
        ("", "zmq-msgpack", "ipc://..., tcp://..."),
        ("127.0.0.1:5555", "zmq-msgpack", "ipc://..., tcp://..."),
        ("http://127.0.0.1:5555", "zmq-msgpack", "ipc://..., tcp://..."),
        ("TCP://127.0.0.1:5555", "zmq-msgpack", "ipc://..., tcp://..."),
        ("unix:///run/worker", "zmq-msgpack", "zmq-msgpack transport"),
        ("tcp://127.0.0.1:5555", "shared-memory", "unix://..."),
        ("ipc:///run/worker", "shared-memory", "shared-memory transport"),
        ("tcp://", "zmq-msgpack", "host:port"),
        ("tcp://127.0.0.1", "zmq-msgpack", "host:port"),
        ("tcp://:5555", "zmq-msgpack", "host:port"),
        ("tcp://127.0.0.1:", "zmq-msgpack", "host:port"),
        ("tcp://127.0.0.1:0", "zmq-msgpack", "1..65535"),
        ("tcp://127.0.0.1:65536", "zmq-msgpack", "1..65535"),
        ("tcp://127.0.0.1:-1", "zmq-msgpack", "1..65535"),
        ("tcp://127.0.0.1:http", "zmq-msgpack", "1..65535"),
        ("tcp://127.0.0.1:" + "1" * 5000, "zmq-msgpack", "1..65535"),
        ("ipc://", "zmq-msgpack", "no path"),
        ("unix://", "shared-memory", "no path"),
        ("unix:///" + "x" * 107, "shared-memory", "107 bytes"),
        ("ipc:///" + "\N{SNOWMAN}" * 36, "zmq-msgpack", "107 bytes"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_wrong_address_is_refused_with_what_is_wrong(
    text: str, transport: str, problem: str
) -> None:
    with pytest.raises(EndpointError) as caught:
        parse_endpoint(text, transport)
    assert str(caught.value).startswith("endpoint: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "tcp://127.0.0.1:{port}",
        "tcp://no.such.host.invalid:5555",
        "tcp://127..0.0.1:5555",
        "tcp://" + "x" * 70 + ":5555",
        "ipc://{folder}/nobody",
        "unix://{folder}/nobody",
        "unix://{folder}",
        "unix://{folder}/no\0body",
        "unix://{folder}/\udcff",
        "ipc://{folder}/\udcff",
    ],
    ids=lambda text: text[:22].encode("ascii", "replace").decode(),
)
def test_an_address_at_which_nobody_listens_is_an_error_at_once(text: str, tmp_path: Path) -> None:
    stage = "shared-memory" if text.startswith("unix") else "baseline"
    before = Footprint.of()
    started = time.monotonic()
    with pytest.raises(EndpointError, match=r"^endpoint: "):
        SplitLlama.launch(tiny(), stage, endpoint=text.format(port=free_port(), folder=tmp_path))
    assert time.monotonic() - started < AT_ONCE_S
    assert Footprint.of() == before


def test_a_listener_that_speaks_another_language_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        before = Footprint.of()
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            SplitLlama.launch(tiny(), endpoint=f"tcp://127.0.0.1:{port}", start_timeout_s=0.5)
        assert time.monotonic() - started < AT_ONCE_S
        assert Footprint.of() == before


def test_a_listener_that_hangs_up_is_a_worker_that_died(tmp_path: Path) -> None:
    path = tmp_path / "hangs-up"
    with listen(str(path)) as listener:
        channel = connect(f"unix://{path}", "shared-memory")
        channel.close()
        listener.accept()[0].close()
        second = connect(f"unix://{path}", "shared-memory")
        second.close()
    started = time.monotonic()
    with pytest.raises((EndpointError, WorkerDied)):
        SplitLlama.launch(tiny(), "fused", endpoint=f"unix://{path}")
    assert time.monotonic() - started < AT_ONCE_S


def test_only_this_user_can_reach_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    with listen(str(path)):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_path_in_use_is_refused_and_its_owner_undisturbed(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    with listen(str(path)) as listener:
        with pytest.raises(EndpointError, match="in use"):
            listen(str(path))
        channel = connect(f"unix://{path}", "shared-memory")
        listener.accept()[0].close()
        channel.close()


KINDS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("precious"),
    "link": lambda path: path.symlink_to(path.with_name("target")),
    "fifo": os.mkfifo,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("scheme", ["ipc", "unix"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_never_taken_for_a_socket_that_was_left_behind(
    kind: str, scheme: str, tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    KINDS[kind](path)
    before = path.lstat()
    with pytest.raises(EndpointError, match=r"notes.*no socket"):
        LISTEN[scheme](path)
    assert path.lstat().st_ino == before.st_ino


LISTEN: dict[str, Callable[[Path], object]] = {
    "unix": lambda path: listen(str(path)),
    "ipc": lambda path: MsgpackServer(Endpoint("ipc", str(path))),
}


@pytest.mark.parametrize("scheme", ["ipc", "unix"])
@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
def test_of_several_that_listen_at_once_one_does_and_it_is_this_users_alone(
    scheme: str, stale: bool, tmp_path: Path
) -> None:
    path = tmp_path / "worker"
    kind = socket.SOCK_SEQPACKET if scheme == "unix" else socket.SOCK_STREAM
    mask = os.umask(0)
    try:
        if stale:
            with socket.socket(socket.AF_UNIX, kind) as left:
                left.bind(str(path))
        listening = [LISTEN[scheme](path)]
        for _ in range(3):
            with pytest.raises(EndpointError, match="in use"):
                LISTEN[scheme](path)
        assert path.stat().st_mode & 0o777 == 0o600
        listening[0].close()  # type: ignore[attr-defined]
    finally:
        assert os.umask(mask) == 0


def test_workers_that_race_for_a_path_with_a_stale_socket_have_one_winner(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    code = (
        "import sys, time\nfrom runtime.transports.endpoints import listen\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "listener = listen(sys.argv[1])\nprint('listens', flush=True)\nsys.stdin.read()"
    )
    for _ in range(3):
        start = str(time.time() + 3)
        racing = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(path), start],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
            for _ in range(4)
        ]  # fmt: skip
        try:
            assert sum(one.stdout.readline() == b"listens\n" for one in racing if one.stdout) == 1
        finally:
            for one in racing:
                one.kill()  # and leave the socket behind
                one.communicate()


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="No such file"):
        listen(str(tmp_path / "nowhere" / "worker"))


# Workers started by hand --------------------------------------------------------------------------------


def assert_one_line(status: int, errors: list[str], *said: str) -> None:
    assert status == 2, errors
    assert len(errors) == 1, errors
    assert errors[0].startswith("worker: ")
    for words in said:
        assert words in errors[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "tinny"], ["tinny", "tiny"]),
        (["--model", MODEL, "--device", "abacus"], ["abacus", "cpu"]),
    ],
    ids=lambda value: value[-1],
)
def test_a_worker_of_something_unknown_says_so_in_one_line(
    arguments: list[str], said: list[str], tmp_path: Path
) -> None:
    status, errors = run_worker("--endpoint", f"ipc://{tmp_path}/worker", *arguments)
    assert_one_line(status, errors, *said)


@pytest.mark.parametrize(
    ("stage", "endpoint", "said"),
    [
        ("warp", "tcp://127.0.0.1:5555", "warp"),
        ("baseline", "nonsense", "tcp://"),
        ("baseline", "", "endpoint"),
        ("baseline", "tcp://127.0.0.1:99999", "65535"),
        ("baseline", "tcp://no.such.host.invalid:5555", "no.such.host.invalid"),
        ("baseline", "ipc:///nowhere/at/all", "/nowhere/at/all"),
        ("fused", "tcp://127.0.0.1:5555", "unix://"),
        ("fused", "unix:///nowhere/at/all", "No such file"),
        ("fused", "unix:///nowhere/\0/x", "endpoint"),
    ],
)
def test_a_worker_that_cannot_listen_says_so_in_one_line(
    stage: str, endpoint: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.enable_grad():  # which a worker switches off
        status = main(["--model", MODEL, "--stage", stage, "--endpoint", endpoint])
    assert_one_line(status, capsys.readouterr().err.splitlines(), said)


def test_a_number_of_threads_that_is_none_is_refused_without_a_traceback(tmp_path: Path) -> None:
    status, errors = run_worker(
        "--model", MODEL, "--endpoint", f"ipc://{tmp_path}/worker", "--threads", "0"
    )
    assert status == 2
    assert not any("Traceback" in line for line in errors)
    assert "threads" in errors[-1]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RealWorker]]:
    """A worker of ``tiny`` per scheme, for all tests that leave it as it is."""
    running: dict[str, RealWorker] = {}
    folder = tmp_path_factory.mktemp("w")
    count = itertools.count()

    def worker(scheme: str) -> RealWorker:
        if scheme not in running:
            where = f"127.0.0.1:{free_port()}" if scheme == "tcp" else f"{folder}/{next(count)}"
            stage = "fused" if scheme == "unix" else "baseline"
            running[scheme] = RealWorker(stage, f"{scheme}://{where}")
        return running[scheme]

    yield worker
    for one in running.values():
        one.close()


SCHEMES = ("tcp", "ipc", "unix")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_worker_serves_one_client_after_another(
    workers: Callable[[str], RealWorker], scheme: str
) -> None:
    worker = workers(scheme)
    results = []
    for _ in range(3):
        with worker.launch() as llama:
            assert llama.worker_info["pid"] == worker.process.pid
            results.append(llama.forward(PROMPT))
    assert results[0].equal(results[1])
    assert results[0].equal(results[2])
    assert worker.alive


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_a_worker_at_an_address_in_use_says_so_in_one_line(
    workers: Callable[[str], RealWorker], scheme: str
) -> None:
    worker = workers(scheme)
    with worker.launch() as llama:
        before = llama.forward(PROMPT)
    status, errors = run_worker(
        "--model", MODEL, "--stage", worker.stage, "--endpoint", worker.endpoint
    )
    assert_one_line(status, errors, worker.endpoint, "in use")
    with worker.launch() as llama:
        assert llama.forward(PROMPT).equal(before)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_that_goes_without_a_word_is_followed_by_the_next(
    workers: Callable[[str], RealWorker], scheme: str
) -> None:
    worker = workers(scheme)
    with worker.raw() as client:
        client.greet()
    with worker.raw():
        pass
    with worker.launch() as llama:
        llama.forward(PROMPT)


def test_a_second_client_waits_for_its_turn_and_not_beyond_its_deadline(
    workers: Callable[[str], RealWorker],
) -> None:
    worker = workers("unix")
    with worker.launch() as first:
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            SplitLlama.launch(tiny(), worker.stage, endpoint=worker.endpoint, start_timeout_s=0.5)
        assert time.monotonic() - started < AT_ONCE_S
        first.forward(PROMPT)
    with worker.launch() as llama:
        llama.forward(PROMPT)


def test_a_client_of_a_worker_whose_queue_is_full_is_not_left_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "_CONNECT_S", 0.2)
    path = tmp_path / "worker"
    with listen(str(path)):  # which takes nobody
        waiting = [connect(f"unix://{path}", "shared-memory") for _ in range(2)]
        started = time.monotonic()
        with pytest.raises(EndpointError, match="serves others"):
            connect(f"unix://{path}", "shared-memory")
        assert time.monotonic() - started < AT_ONCE_S
        for channel in waiting:
            channel.close()


@pytest.mark.parametrize("text", ["fd://", "fd://x", "fd://-1", "fd://99999", "fd://0", "fd://1e3"])
def test_what_is_no_inherited_socket_is_refused(text: str) -> None:
    with pytest.raises(EndpointError, match=r"^endpoint: "):
        serve(text, "shared-memory")
    with pytest.raises(EndpointError, match=r"^endpoint: "):
        serve(text, "zmq-msgpack")
    with pytest.raises(EndpointError, match="does not fit"):
        connect(text, "shared-memory")


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("other")
    write_random_checkpoint(folder, tiny().config, seed=99)
    return load_checkpoint(folder, progress=False)


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_a_worker_of_other_weights_is_refused_by_name_and_serves_on(
    workers: Callable[[str], RealWorker], other_weights: Checkpoint, scheme: str
) -> None:
    worker = workers(scheme)
    with worker.launch() as llama:
        before = llama.forward(PROMPT)
    footprint = Footprint.of()
    with pytest.raises(HandshakeError, match="digest"):
        SplitLlama.launch(other_weights, worker.stage, endpoint=worker.endpoint)
    assert Footprint.of() == footprint
    with worker.launch() as llama:
        assert llama.forward(PROMPT).equal(before)


def test_a_worker_of_another_model_is_refused_by_name(
    workers: Callable[[str], RealWorker], tmp_path: Path
) -> None:
    worker = workers("tcp")
    with pytest.raises(HandshakeError, match=r"config\.hidden_size.*32.*128"):
        # Every field differs; the one that is named is one of them.
        SplitLlama.launch(
            small_checkpoint(
                tmp_path,
                vocab_size=512,
                intermediate_size=384,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
            ),
            endpoint=worker.endpoint,
        )


@pytest.mark.parametrize(
    ("stage", "named"), [("bf16", "dtype.*bfloat16.*float32"), ("shared-memory", "granularity")]
)
def test_a_worker_of_another_stage_is_refused_by_name(
    workers: Callable[[str], RealWorker], stage: str, named: str
) -> None:
    with pytest.raises(HandshakeError, match=named):
        SplitLlama.launch(tiny(), stage, endpoint=workers("unix").endpoint)


def test_a_worker_of_another_device_is_refused_by_name(
    workers: Callable[[str], RealWorker],
) -> None:
    with pytest.raises(HandshakeError, match=r"device.*cuda.*cpu"):
        SplitLlama.launch(tiny(), device="cuda", endpoint=workers("tcp").endpoint)


def test_a_client_of_another_protocol_version_is_refused_by_name(
    workers: Callable[[str], RealWorker],
) -> None:
    for scheme in SCHEMES:
        with workers(scheme).raw() as client:
            greeting = {**hello(tiny(), workers(scheme).stage), "protocol": 999, "new": True}
            error = client.exchange({"hello": greeting})["error"]
            assert error["kind"] == "handshake"
            assert "protocol" in error["problem"]
            assert "999" in error["problem"]


def test_the_address_of_another_transport_is_refused_before_anything_is_reached(
    workers: Callable[[str], RealWorker],
) -> None:
    with pytest.raises(EndpointError, match="unix://"):
        SplitLlama.launch(tiny(), "fused", endpoint=workers("tcp").endpoint)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_closing_leaves_a_worker_that_was_not_started_here(
    workers: Callable[[str], RealWorker], scheme: str
) -> None:
    worker = workers(scheme)
    before = Footprint.of()
    for _ in range(3):
        llama = worker.launch()
        llama.forward(PROMPT)
        llama.close()
        llama.close()
    assert worker.alive
    assert Footprint.of() == before


@pytest.mark.parametrize(
    ("scheme", "how"),
    [
        ("unix", signal.SIGTERM),
        ("unix", signal.SIGINT),
        ("unix", signal.SIGKILL),
        ("ipc", signal.SIGTERM),
        ("tcp", signal.SIGINT),
    ],
    ids=str,
)
def test_a_worker_that_was_ended_leaves_its_address_to_the_next(
    scheme: str, how: signal.Signals, tmp_path: Path
) -> None:
    where = f"127.0.0.1:{free_port()}" if scheme == "tcp" else f"{tmp_path}/worker"
    stage = "shared-memory" if scheme == "unix" else "baseline"
    for _ in range(2):
        with RealWorker(stage, f"{scheme}://{where}") as worker:
            with worker.launch() as llama:
                llama.forward(PROMPT)
            ending = Ending(worker.process.pid)
            worker.process.send_signal(how)
            assert ending.comes_within(AT_ONCE_S)
            assert "Traceback" not in worker.process.communicate(timeout=PATIENCE_S)[1]
    if how != signal.SIGKILL and scheme != "tcp":
        assert list(tmp_path.iterdir()) == []


def test_a_worker_never_waits_for_long_without_a_look_at_signals(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    servers = [MsgpackServer(Endpoint("ipc", f"{tmp_path}/idle")), SharedMemoryServer(theirs)]
    started = time.monotonic()
    for server in servers:
        with pytest.raises(ReceiveTimeout):
            server.receive()
        server.close()
    ours.close()
    assert time.monotonic() - started < len(servers) * AT_ONCE_S


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


def test_an_unknown_stage_or_device_is_refused_before_an_address_is_tried() -> None:
    with pytest.raises(InputError, match=r"stage: 'warp'.*baseline"):
        SplitLlama.launch(tiny(), "warp", endpoint="nonsense")
    with pytest.raises(InputError, match=r"device: 'abacus'.*cpu"):
        SplitLlama.launch(tiny(), device="abacus", endpoint="nonsense")


def test_a_port_held_by_something_else_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        status, errors = run_worker("--model", MODEL, "--endpoint", endpoint)
    assert_one_line(status, errors, endpoint, "in use")


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
