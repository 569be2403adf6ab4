"""The untrusted side: a process that owns the device and computes what it is asked to.

Started by ``SplitLlama.launch``, or by hand for a trusted side that connects later::

    python -m runtime.worker --model smollm2-135m --endpoint tcp://127.0.0.1:5555
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from runtime.checkpoints import load_checkpoint
from runtime.devices import DEVICES, open_device
from runtime.endpoints import listen, parse_endpoint
from runtime.errors import InputError, SplitError
from runtime.messages import PROTOCOL_VERSION, Hello
from runtime.service import Service
from runtime.slowdown import Slowdown, parse_factor
from runtime.stages import STAGES, Stage, find_stage
from runtime.transports.base import LISTEN_S, ServerChannel
from runtime.transports.shared_memory import SharedMemoryServer
from runtime.transports.zmq_msgpack import ZmqServer


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the client or the parent process ends; return the exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="worker: %(message)s")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(arguments)
    except SplitError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.worker", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", required=True, help="preset, directory or .gguf file")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--endpoint", help="address to listen at: tcp://host:port, ipc://path, unix://path"
    )
    where.add_argument("--descriptor", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--stage", default="baseline", help=f"one of {', '.join(STAGES)} (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="cpu", help=f"one of {', '.join(DEVICES)} (default: %(default)s)"
    )
    parser.add_argument(
        "--slowdown", action="append", default=[], help="PHASE=FACTOR: be slower, to test alarms"
    )
    parser.add_argument("--threads", type=int, help="compute threads (default: one per core)")
    return parser


def _interrupt(number: int, frame: object) -> None:
    """Leave as after Ctrl-C: through every cleanup."""
    raise KeyboardInterrupt


def _run(arguments: argparse.Namespace) -> None:
    stage = find_stage(arguments.stage)
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise InputError(f"threads: must be positive, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    slowdown = Slowdown(dict(map(parse_factor, arguments.slowdown)))
    torch.set_grad_enabled(False)
    # First the road: an address in use is found out before the weights are loaded.
    channels = _open_road(arguments, stage)
    checkpoint = load_checkpoint(arguments.model)
    device = open_device(arguments.device, checkpoint, stage.torch_dtype, stage.granularity)
    hello = Hello(
        protocol=PROTOCOL_VERSION,
        config=checkpoint.config.to_json_dict(),
        digest=checkpoint.digest,
        dtype=stage.dtype,
        device=arguments.device,
        granularity=stage.granularity,
    )
    about = {
        "device_name": device.name,
        "kernels": device.kernels,
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }
    service = Service(
        device, checkpoint.config, hello, about, slowdown if arguments.slowdown else None
    )
    for channel in channels:
        service.serve(channel)
        channel.close()


def _open_road(arguments: argparse.Namespace, stage: Stage) -> Iterator[ServerChannel]:
    """Listen, or take the connection that the parent made; yield a channel per client."""
    if arguments.descriptor is not None:
        return iter([SharedMemoryServer(socket.socket(fileno=arguments.descriptor))])
    endpoint = parse_endpoint(arguments.endpoint, stage.transport)
    if endpoint.scheme != "unix":
        server = ZmqServer(str(endpoint))
        if endpoint.scheme == "ipc":
            atexit.register(Path(endpoint.address).unlink, missing_ok=True)
        atexit.register(server.close)
        return iter([server])
    listener = listen(endpoint.address)
    atexit.register(Path(endpoint.address).unlink, missing_ok=True)
    return _accepted(listener)


def _accepted(listener: socket.socket) -> Iterator[ServerChannel]:
    """Take one client after another."""
    listener.settimeout(LISTEN_S)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        yield SharedMemoryServer(connection)


if __name__ == "__main__":
    sys.exit(main())
