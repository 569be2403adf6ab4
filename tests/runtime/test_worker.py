"""Workers started by hand: whom they serve, whom they refuse, and what they say in one line."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runtime import SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint
from runtime.checkpoints.random_weights import write_random_checkpoint
from runtime.errors import EndpointError, HandshakeError, WorkerTimeout
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
    ("stage", "named"), [("bf16", "dtype.*bfloat16.*float32"), ("fused", "granularity")]
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
        worker = workers(scheme)
        with worker.raw() as client:
            greeting = {**hello(tiny(), worker.stage), "protocol": 999, "new": True}
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


def test_a_port_held_by_something_else_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        status, errors = run_worker("--model", MODEL, "--endpoint", endpoint)
    assert_one_line(status, errors, endpoint, "in use")
