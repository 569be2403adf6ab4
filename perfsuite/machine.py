"""What this machine is, as far as a latency depends on it."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

GPU_QUERY_TIMEOUT_S = 10.0


class Machine(TypedDict):
    """A fingerprint: two runs are comparable in seconds only when theirs are equal."""

    cpu: str
    cpu_model: str  # family and model: one name may stand for several generations
    cores: int  # that this process may run on
    threads: int  # that the unsplit model computes with
    gpu: str | None
    driver: str | None
    torch: str | None  # None where this process has not imported it
    cuda: str | None
    python: str
    kernel: str


def fingerprint(threads: int) -> Machine:
    """This machine's fingerprint for a run with ``threads`` threads. Never raises.

    torch counts where this process has imported it: whoever measures without it does not depend on it.
    """
    gpu, driver = _gpu()
    torch = sys.modules.get("torch")
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_model": f"{_cpuinfo('cpu family')}.{_cpuinfo('model')}",
        "cores": _cores(),
        "threads": threads,
        "gpu": gpu,
        "driver": driver,
        "torch": None if torch is None else str(torch.__version__),
        "cuda": None if torch is None else torch.version.cuda,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # on Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


@functools.cache
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
