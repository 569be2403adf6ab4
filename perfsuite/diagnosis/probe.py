"""The worker's operations timed in a process with a worker's environment, which never loads a model.

``Probe`` starts ``python -m perfsuite.diagnosis.probe`` and talks JSON lines with it. The first line lists the
steps of a pass; each further line asks for one pass, and is answered with the seconds of each step.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch

from perfsuite.diagnosis.device_operations import DeviceOperations
from perfsuite.diagnosis.null_worker import SWEEP_BYTES, Sweep
from perfsuite.errors import MeasurementError
from perfsuite.measuring import collector_paused
from perfsuite.workload import Operation
from runtime.processes import worker_environment

WAIT_S = 2e-3
"""Long enough for OpenMP's threads to fall asleep, as a worker's do between two calls."""


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation of a pass; ``after_wait`` where a call begins, and so a wait ends, in a forward pass."""

    operation: Operation
    after_wait: bool


class Probe:
    """A context manager that ends the process. Raises MeasurementError when that dies or cannot compute."""

    def __init__(self, steps: Sequence[Step], threads: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - __exit__ closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perfsuite.diagnosis.probe", "--threads", str(threads)],
            env=worker_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            process_group=0,  # Ctrl-C is the parent's to handle; it closes stdin then
        )
        self._send([[dataclasses.astuple(step.operation), step.after_wait] for step in steps])

    def run(self) -> tuple[list[float], float]:
        """Return the seconds of each step of one pass, and of one walk through memory."""
        self._send({})
        if self._process.stdout is None or not (line := self._process.stdout.readline()):
            raise self._death()
        answer = json.loads(line)
        return answer["seconds"], answer["sweep_s"]

    def _send(self, message: Any) -> None:
        try:
            if self._process.stdin is None:
                raise self._death()
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error

    def _death(self) -> MeasurementError:
        self._process.kill()
        self._process.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        return MeasurementError(
            f"the probe of the worker's operations ended: {words or 'no message'}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()  # it holds nothing that needs a farewell
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # a request that was not taken any more
                if pipe is not None:
                    pipe.close()
        self._stderr.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Answer one line with one pass until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m perfsuite.diagnosis.probe")
    parser.add_argument("--threads", type=int, required=True)
    torch.set_num_threads(parser.parse_args(argv).threads)
    torch.set_grad_enabled(False)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    device = DeviceOperations()
    steps = [
        (device.build(_operation(fields)), after_wait)
        for fields, after_wait in json.loads(sys.stdin.readline())
    ]
    sweep = Sweep()
    for _ in sys.stdin:
        seconds = []
        with collector_paused():
            for run, after_wait in steps:
                if after_wait:
                    time.sleep(WAIT_S)
                started = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            sweep()
            swept = time.perf_counter() - started
        answers.write(json.dumps({"seconds": seconds, "sweep_s": swept}) + "\n")
    return 0


def _operation(fields: Sequence[Any]) -> Operation:
    side, call, kind, shape, *rest = fields
    return Operation(side, call, kind, tuple(shape), *rest)


def bandwidth(sweep_s: float) -> float:
    """Return memory's bytes/s: a walk reads and writes all that it passes."""
    return 2 * SWEEP_BYTES / sweep_s


if __name__ == "__main__":
    sys.exit(main())
