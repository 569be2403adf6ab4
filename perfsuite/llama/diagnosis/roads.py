"""Roads to a worker that computes nothing: the runtime's real channels between two real processes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch

from perfsuite.errors import MeasurementError
from perfsuite.llama.bursts import Between
from perfsuite.llama.diagnosis.null_worker import CONFIG, HELLO
from runtime.processes import worker_environment
from runtime.rpc import RpcClient
from runtime.transports.base import ClientChannel
from runtime.transports.shared_memory import SharedMemoryClient
from runtime.transports.zmq_msgpack import ZmqClient

ROADS = ("zmq-tcp", "zmq-ipc", "shared-memory")

_START_TIMEOUT_S = 120.0
_CALL_TIMEOUT_S = 60.0


@contextmanager
def open_roads(
    names: Sequence[str], between: Between, threads: int
) -> Iterator[Mapping[str, RpcClient]]:
    """Start null workers, busy ``between`` calls, at the ends of these ``ROADS``; they end with the context.

    Raises:
        MeasurementError: for an unknown road.
        WorkerError: if a worker does not start.
    """
    for name in names:
        if name not in ROADS:
            raise MeasurementError(f"no road {name!r}; there are {', '.join(ROADS)}")
    with ExitStack() as resources:
        # All start before the first is waited for.
        busy = ("--swept", str(between.device_bytes), "--flops", str(between.device_flops))
        channels = {name: _open(name, resources, threads, *busy) for name in names}
        clients = {}
        for name, channel in channels.items():
            channel.set_timeout(_START_TIMEOUT_S)
            clients[name] = RpcClient(channel, CONFIG, torch.float32)
            clients[name].handshake(HELLO)
            channel.set_timeout(_CALL_TIMEOUT_S)
        yield clients


def _open(name: str, resources: ExitStack, threads: int, *busy: str) -> ClientChannel:
    if name == "shared-memory":
        return _socket_road(resources, threads, *busy)
    if name == "zmq-tcp":
        return _zmq_road(resources, threads, f"tcp://127.0.0.1:{_free_port()}", *busy)
    folder = tempfile.mkdtemp(prefix="split-llama-")
    resources.callback(shutil.rmtree, folder, ignore_errors=True)
    return _zmq_road(resources, threads, f"ipc://{folder}/worker", *busy)


def _socket_road(resources: ExitStack, threads: int, *busy: str) -> ClientChannel:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    resources.callback(ours.close)
    with theirs:
        _start(
            resources,
            threads,
            "--descriptor",
            str(theirs.fileno()),
            *busy,
            descriptor=theirs.fileno(),
        )
    return SharedMemoryClient(ours)


def _zmq_road(resources: ExitStack, threads: int, endpoint: str, *busy: str) -> ClientChannel:
    _start(resources, threads, "--endpoint", endpoint, *busy)
    client = ZmqClient(endpoint)
    resources.callback(client.close)
    return client


def _start(resources: ExitStack, threads: int, *where: str, descriptor: int | None = None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "perfsuite.llama.diagnosis.null_worker", *where],
        env=worker_environment(threads),
        pass_fds=() if descriptor is None else (descriptor,),
        stdin=subprocess.PIPE,
        process_group=0,  # Ctrl-C is the parent's to handle; its end closes stdin
    )
    resources.enter_context(process)
    resources.callback(process.kill)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
