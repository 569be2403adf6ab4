"""The worker's operations timed in a process with a worker's environment, which never loads a model.

``Probe`` starts ``python -m perfsuite.diagnosis.probe`` and talks JSON lines with it. The first line lists the
bursts of operations; each further line asks for one of them by its number, and is answered with the seconds
of its operations. An empty text asks for the seconds of a walk through memory instead.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from perfsuite.bursts import Burst
from perfsuite.diagnosis.device_operations import DeviceOperations
from perfsuite.diagnosis.null_worker import MOST_SWEPT, Sweep
from perfsuite.errors import MeasurementError
from perfsuite.workload import Operation
from runtime.processes import worker_environment


class Probe:
    """Owns the process until it is closed. Raises MeasurementError when that dies or cannot compute."""

    def __init__(self, bursts: Sequence[Burst], threads: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perfsuite.diagnosis.probe", "--threads", str(threads)],
            env=worker_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            process_group=0,  # Ctrl-C is the parent's to handle; it closes stdin then
        )
        self._send([[dataclasses.astuple(row) for row in burst.operations] for burst in bursts])

    def run(self, number: int) -> list[float]:
        """Return the seconds of each operation of the burst ``number``."""
        return self._ask(number)

    def sweep(self) -> float:
        """Return the seconds that all threads need to walk through ``MOST_SWEPT`` bytes."""
        return self._ask("")[0]

    def _ask(self, message: int | str) -> list[float]:
        self._send(message)
        if self._process.stdout is None or not (line := self._process.stdout.readline()):
            raise self._death()
        seconds: list[float] = json.loads(line)
        return seconds

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

    def close(self) -> None:
        """End the process. Closing twice is allowed."""
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
    bursts = [
        [device.build(_operation(fields)) for fields in burst]
        for burst in json.loads(sys.stdin.readline())
    ]
    sweep = Sweep(MOST_SWEPT)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        number = json.loads(line)
        runs: Sequence[Callable[[], object]] = [sweep] if number == "" else bursts[number]
        seconds = []
        for run in runs:
            started = time.perf_counter()
            run()  # and release what it returns
            seconds.append(time.perf_counter() - started)
        answers.write(json.dumps(seconds) + "\n")
    return 0


def _operation(fields: Sequence[Any]) -> Operation:
    side, call, kind, shape, *rest = fields
    return Operation(side, call, kind, tuple(shape), *rest)


if __name__ == "__main__":
    sys.exit(main())
