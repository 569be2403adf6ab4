"""Routes to a worker that computes nothing: the runtime's real channels between two real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType

import torch

from perfsuite.errors import MeasurementError
from perfsuite.llama.bursts import Between
from perfsuite.llama.diagnosis.null_worker import CONFIG, HELLO
from runtime.rpc import RpcClient
from runtime.transports.base import ClientChannel, Transport
from runtime.transports.registry import TRANSPORTS
from runtime.watched_process import environment

ROUTES: Mapping[str, tuple[Transport, str]] = MappingProxyType(
    {
        name: (transport, scheme)
        for transport in TRANSPORTS.values()
        for scheme, name in transport.routes.items()
    }
)
"""Each transport over each kind of its addresses."""

_START_TIMEOUT_S = 120.0
_CALL_TIMEOUT_S = 60.0


@contextmanager
def open_routes(
    names: Sequence[str], between: Between, threads: int
) -> Iterator[Mapping[str, RpcClient]]:
    """Start null workers, busy ``between`` calls, at the ends of these ``ROUTES``; they end with the context.

    Raises:
        MeasurementError: for an unknown route.
        WorkerError: if a worker does not start.
    """
    for name in names:
        if name not in ROUTES:
            raise MeasurementError(f"no transport {name!r}; there are {', '.join(ROUTES)}")
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
    transport, scheme = ROUTES[name]
    meeting = resources.enter_context(transport.meet(scheme))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "perfsuite.llama.diagnosis.null_worker",
            *("--transport", transport.name, "--endpoint", meeting.endpoint),
            *busy,
        ],
        env=environment(threads),
        pass_fds=meeting.descriptors,
        stdin=subprocess.PIPE,
        process_group=0,  # Ctrl-C is the parent's to handle; its end closes stdin
    )
    resources.enter_context(process)
    resources.callback(process.kill)
    channel = meeting.connect()
    resources.callback(channel.close)
    return channel
