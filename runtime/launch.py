"""Starting and ending the worker's process, so that nothing of it is left whichever side ends first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from runtime.errors import WorkerError
from runtime.parent_watch import GRACE_S
from runtime.stages import Stage
from runtime.text import printable
from runtime.transports.base import Meeting
from runtime.transports.registry import TRANSPORTS

# The sides take turns on the same cores: a side that waits must not spin on a core the other needs, but
# between the many short parallel regions of one layer a moment of it saves a wake-up each: under 1 ms.
_OPENMP = {"GOMP_SPINCOUNT": "20000"}

# Of this process's environment, what a worker may need; it is not trusted with the rest.
_KEPT = frozenset(
    (
        "CC", "HF_HOME", "HF_HUB_OFFLINE", "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "TEMP", "TMP", "TMPDIR",
        "TZ", "USER", "VIRTUAL_ENV",
    )
)  # fmt: skip
_KEPT_PREFIXES = (
    "ATEN_", "COVERAGE_", "CUDA", "DNNL_", "GOMP_", "KMP_", "LC_", "LD_", "MALLOC_", "MKL_", "NVIDIA_", "OMP_",
    "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "SPLIT_LLAMA_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "XDG_",
)  # fmt: skip

_WATCH = str(Path(__file__).resolve().with_name("parent_watch.py"))


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment in which a worker computes with ``threads`` threads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, **_OPENMP, "OMP_NUM_THREADS": str(threads)}


def _import_paths() -> list[str]:
    """Return where a worker may import from beyond its interpreter's own places: not the current folder."""
    return [str(path) for path in sys.path if path and Path(path).is_absolute()]


class WorkerProcess:
    """A worker that this process started, and the way to it. ``process`` is the one that watches it."""

    def __init__(self, model: str, stage: Stage, device: str, threads: int) -> None:
        with ExitStack() as resources:
            # Not a pipe: nobody reads while the worker runs, and a full pipe would stop it.
            self._errors = resources.enter_context(tempfile.TemporaryFile())
            self._meeting = resources.enter_context(ExitStack())
            self._resources = resources
            transport = TRANSPORTS[stage.transport]
            self._environment = worker_environment(threads)
            self._environment.pop("PYTHONPATH", None)  # its places are among those that are passed
            self._worker = [
                "--model", model, "--stage", stage.name, "--device", device, "--threads", str(threads),
            ]  # fmt: skip
            meeting = self._meeting.enter_context(transport.meet(transport.scheme))
            self._start(meeting)
            self.channel = meeting.connect()
            resources.callback(self.channel.close)
            pidfd = os.pidfd_open(self.process.pid)
            resources.callback(os.close, pidfd)
            self.channel.watch(pidfd)
            self._resources = resources.pop_all()

    def _start(self, meeting: Meeting) -> None:
        if not sys.executable:
            raise WorkerError(
                "worker: cannot be started, because this Python does not know its own program (sys.executable)"
            )
        self.process = subprocess.Popen(
            [
                sys.executable, "-P", _WATCH, str(os.getpid()), meeting.folder, json.dumps(_import_paths()),
                *self._worker, "--endpoint", meeting.endpoint,
            ],
            env=self._environment,
            pass_fds=meeting.descriptors,
            stdin=subprocess.DEVNULL,
            stderr=self._errors,
        )  # fmt: skip
        self._resources.callback(self.end)

    def connected(self) -> None:
        """Remove what was needed only to find each other."""
        self._meeting.close()

    def stderr_tail(self) -> str:
        """Return what a worker that ended by itself said last; an empty text if it runs or said nothing."""
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return printable(lines[-1].removeprefix("worker: ")) if lines else ""

    @property
    def has_ended(self) -> bool:
        """Whether the process ended, by itself or by ``end``."""
        return self.process.poll() is not None

    def end(self) -> None:
        """End the process, and wait for that; may be called from any thread, and again."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(2 * GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()  # and the kernel ends the worker
                self.process.wait()

    def close(self) -> None:
        """End the process and release the way to it. Closing twice is allowed."""
        self.end()
        self._resources.close()
