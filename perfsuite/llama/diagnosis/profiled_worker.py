"""The runtime's own worker under PyTorch's profiler: ``... profiled_worker TRACE-FILE WORKER-ARGUMENTS``.

It writes the trace when it is told to end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from perfsuite.errors import MeasurementError
from perfsuite.llama.addresses import own_address
from perfsuite.llama.diagnosis.timeline import Event, profiled_events, trace_events
from runtime import SplitLlama, worker
from runtime.checkpoints import Checkpoint
from runtime.errors import EndpointError
from runtime.stages import Stage
from runtime.transports.registry import TRANSPORTS
from runtime.watched_process import environment

_START_TIMEOUT_S = 300.0
_END_TIMEOUT_S = 60.0
_ASK_AGAIN_S = 0.1


def profiled_forward(
    checkpoint: Checkpoint,
    stage: Stage,
    input_ids: torch.Tensor,
    *,
    device: str,
    threads: int,
    number: int,
) -> list[Event]:
    """Run one forward pass on a worker that is profiled; return the events of its timeline.

    Raises:
        SplitError: if the worker fails.
        MeasurementError: if it does not start, or leaves no profile behind.
    """
    with tempfile.TemporaryDirectory(prefix="split-llama-") as folder:
        file = Path(folder) / "profile.json"
        endpoint = own_address(TRANSPORTS[stage.transport].scheme, folder)
        command = [
            sys.executable, "-m", "perfsuite.llama.diagnosis.profiled_worker", str(file),
            "--model", checkpoint.source, "--stage", stage.name, "--device", device,
            "--threads", str(threads), "--endpoint", endpoint,
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            with _connected(checkpoint, stage, device, endpoint, process) as llama:
                llama.forward(input_ids)  # warm up
                llama.forward(input_ids)
                trace = llama.last_trace
            unix = time.time() - time.perf_counter()
            process.send_signal(signal.SIGTERM)
            process.wait(_END_TIMEOUT_S)
            seen = json.loads(file.read_text())
        except (subprocess.TimeoutExpired, OSError, ValueError) as error:
            raise MeasurementError(f"the profiled worker left no profile: {error}") from error
        finally:
            process.kill()
            process.wait()
    began = unix + trace.rpcs[0].started_s
    return [
        *trace_events(trace, stage.name, number),
        *profiled_events(seen, began, trace.total_s, number),
    ]


def _connected(
    checkpoint: Checkpoint,
    stage: Stage,
    device: str,
    endpoint: str,
    process: subprocess.Popen[Any],
) -> SplitLlama:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            return SplitLlama.launch(checkpoint, stage.name, device, endpoint=endpoint)
        except EndpointError:
            # Nobody listens yet.
            if process.poll() is not None or time.monotonic() > deadline:
                raise MeasurementError(
                    f"the profiled worker of {stage.name} did not start"
                ) from None
            time.sleep(_ASK_AGAIN_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as the runtime's worker does, profiled, and write the profile at the end."""
    file, *arguments = sys.argv[1:] if argv is None else argv
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        code = worker.main(arguments)
    profiler.export_chrome_trace(file)
    # Whatever else would end slowly is of no use to anybody.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
