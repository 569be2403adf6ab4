"""What this machine is, as far as a latency depends on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TypedDict

import torch

GPU_QUERY_TIMEOUT_S = 10.0


class Machine(TypedDict):
    """A fingerprint: two runs are comparable in seconds only when theirs are equal."""

    cpu: str
    cpu_model: str  # family and model: one name may stand for several generations
    cores: int  # that this process may run on
    threads: int  # that the unsplit model computes with
    gpu: str | None
    driver: str | None
    torch: str
    cuda: str | None
    python: str
    kernel: str


def fingerprint(threads: int) -> Machine:
    """This machine's fingerprint for a run with ``threads`` threads. Never raises."""
    gpu, driver = _gpu()
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_model": f"{_cpuinfo('cpu family')}.{_cpuinfo('model')}",
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "gpu": gpu,
        "driver": driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def _cpuinfo(wanted: str) -> str:
    """What the kernel says of the first processor; an empty text where it does not."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            key, _, value = line.partition(":")
            if key.strip() == wanted:
                return value.strip()
    except OSError:
        pass
    return ""


def _gpu() -> tuple[str | None, str | None]:
    """Name and driver of the first GPU, asked of its tool: that takes no memory of the device."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=GPU_QUERY_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None
    name, _, driver = answer.partition("\n")[0].rpartition(",")
    return (name.strip(), driver.strip()) if name else (None, None)
