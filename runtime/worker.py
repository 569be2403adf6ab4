"""The untrusted side: a process that owns the device and computes what it is asked to.

Started by ``SplitLlama.launch``, or by hand for a trusted side that connects later::

    python -m runtime.worker --model smollm2-135m --endpoint tcp://127.0.0.1:5555
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import torch

from runtime.checkpoints import load_checkpoint
from runtime.devices import DEVICES, open_device
from runtime.errors import InputError, SplitError
from runtime.messages import PROTOCOL_VERSION, Hello
from runtime.service import Service
from runtime.stages import STAGES, find_stage
from runtime.transports.curve import generate
from runtime.transports.registry import serve


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the client or the parent process ends; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="worker: %(message)s")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(_parser().parse_args(argv))
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
    parser.add_argument(
        "--endpoint",
        required=True,
        help="address to listen at: tcp://host:port, ipc://path, unix://path",
    )
    parser.add_argument(
        "--stage", default="baseline", help=f"one of {', '.join(STAGES)} (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="cpu", help=f"one of {', '.join(DEVICES)} (default: %(default)s)"
    )
    parser.add_argument(
        "--keys", metavar="FOLDER", help="keys of a tcp endpoint; needed beyond this host"
    )
    parser.add_argument(
        "--generate-keys",
        metavar="FOLDER",
        action=_GenerateKeys,
        help="make keys for both ends in a new folder, and do nothing else",
    )
    parser.add_argument("--threads", type=int, help="compute threads (default: one per core)")
    return parser


class _GenerateKeys(argparse.Action):
    """Makes the keys as soon as the option is read: nothing else is needed then."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        folder = generate(values)
        print(
            f"{folder}: keep worker.secret and client.public for the worker, "
            "client.secret and worker.public for its client"
        )
        parser.exit()


def _interrupt(number: int, frame: object) -> None:
    """Leave as after Ctrl-C: through every cleanup."""
    raise KeyboardInterrupt


def _run(arguments: argparse.Namespace) -> None:
    stage = find_stage(arguments.stage)
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise InputError(f"threads: must be positive, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    # First of all: an address in use is found out before the weights are loaded.
    channels = serve(arguments.endpoint, stage.transport, arguments.keys)
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
    service = Service(device, checkpoint.config, hello, about)
    for channel in channels:
        service.serve(channel)
        channel.close()


if __name__ == "__main__":
    sys.exit(main())
