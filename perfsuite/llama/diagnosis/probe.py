"""The worker's operations timed in a process with a worker's environment, which never loads a model.

``Probe`` starts ``python -m perfsuite.llama.diagnosis.probe`` and asks it (see ``processes.program``): first the
bursts of operations, each with the number of layers whose weights it uses in turn, then requests for one of
them, or, without a number, for a walk through memory.

    -> {"bursts": [[2, [[side, call, kind, ...]]]]}
    -> {"burst": 0}
    <- {"seconds": [0.01]}    or {"error": "..."}
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from perfsuite.errors import MeasurementError
from perfsuite.llama.bursts import Burst
from perfsuite.llama.diagnosis.device_operations import DeviceOperations, Run
from perfsuite.llama.diagnosis.null_worker import MOST_SWEPT, Sweep
from perfsuite.llama.workload import Operation
from perfsuite.processes.program import Program
from perfsuite.processes.protocol import Ended, Lines
from runtime.devices.huge_pages import use_huge_pages
from runtime.watched_process import environment

_TIMEOUT_S = 300.0


class Probe:
    """Owns the process until it is closed. Raises MeasurementError when that dies or cannot compute."""

    def __init__(self, bursts: Mapping[Burst, int], threads: int) -> None:
        """``bursts`` are those that will be run, each with the number of layers whose weights it needs."""
        self._program = Program(
            [sys.executable, "-m", "perfsuite.llama.diagnosis.probe", "--threads", str(threads)],
            "the probe of the worker's operations",
            MeasurementError,
            environment=environment(threads),
        )
        self._numbers = {burst: number for number, burst in enumerate(bursts)}
        rows = [
            (layers, [dataclasses.astuple(row) for row in burst.operations])
            for burst, layers in bursts.items()
        ]
        self._program.send({"bursts": rows})

    def run(self, burst: Burst) -> list[float]:
        """Return the seconds of each operation of ``burst``, which is one of those that it was made for."""
        return self._ask({"burst": self._numbers[burst]})

    def sweep(self) -> float:
        """Return the seconds that all threads need to walk through ``MOST_SWEPT`` bytes."""
        return self._ask({})[0]

    def _ask(self, request: Mapping[str, int]) -> list[float]:
        seconds: list[float] = self._program.ask(request, _TIMEOUT_S)["seconds"]
        return seconds

    def close(self) -> None:
        """End the process. Closing twice is allowed."""
        self._program.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Answer each request with one pass until the other end is closed."""
    parser = argparse.ArgumentParser(prog="python -m perfsuite.llama.diagnosis.probe")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("channel", type=int, help="descriptor of the socket")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    lines = Lines(socket.socket(fileno=options.channel))
    device = DeviceOperations()
    with suppress(Ended):
        try:
            bursts = [
                [device.build(_operation(fields), layers) for fields in burst]
                for layers, burst in lines.receive()["bursts"]
            ]
        except (KeyError, RuntimeError) as error:
            lines.send({"error": f"cannot be built: {error}"})
            return 1
        sweep = Sweep(MOST_SWEPT)
        sweep()  # its pages are there from the first time on
        use_huge_pages(sweep.nbytes)  # as a worker does for its weights
        gc.collect()
        gc.freeze()
        while True:
            number = lines.receive().get("burst")
            runs: Sequence[Run] = [sweep] if number is None else bursts[number]
            lines.send({"seconds": [timed(run) for run in runs]})
    return 0


def timed(run: Run) -> float:
    """Return the seconds of one run, the release of what it returns included."""
    started = time.perf_counter()
    run()  # and release what it returns
    return time.perf_counter() - started


def _operation(fields: Sequence[Any]) -> Operation:
    side, call, kind, shape, *rest = fields
    return Operation(side, call, kind, tuple(shape), *rest)


if __name__ == "__main__":
    sys.exit(main())
