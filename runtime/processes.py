"""Starting and ending the worker's process, so that nothing of it is left whichever side ends first."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

from runtime.endpoints import parse_endpoint
from runtime.stages import Stage
from runtime.transports.base import ClientChannel
from runtime.transports.shared_memory import SharedMemoryClient
from runtime.transports.zmq_msgpack import ZmqClient

# The sides take turns on the same cores: a side that waits must not spin on a core the other needs, but
# between the many short parallel regions of one layer a moment of it saves a wake-up each: under 1 ms.
_OPENMP = {"GOMP_SPINCOUNT": "20000"}

_GRACE_S = 2.0  # for a worker that is told to end, before it is made to


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment in which a worker computes with ``threads`` threads."""
    return {**os.environ, **_OPENMP, "OMP_NUM_THREADS": str(threads)}


class WorkerProcess:
    """A worker that this process started, and the road to it."""

    def __init__(
        self, model: str, stage: Stage, device: str, threads: int, options: Sequence[str] = ()
    ) -> None:
        """Start it; ``options`` are further ones of its command line."""
        with ExitStack() as resources:
            # Not a pipe: nobody reads while the worker runs, and a full pipe would stop it.
            self._errors = resources.enter_context(tempfile.TemporaryFile())
            self._meeting = resources.enter_context(ExitStack())
            self._resources = resources
            self._environment = worker_environment(threads)
            self._worker = [
                "--model", model, "--stage", stage.name, "--device", device, "--threads", str(threads),
                *options,
            ]  # fmt: skip
            over_socket = stage.transport == "shared-memory"
            self.channel = self._start_with_socket() if over_socket else self._start_with_ipc()
            self._resources = resources.pop_all()

    def _start_with_socket(self) -> ClientChannel:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._resources.callback(ours.close)
        with theirs:
            self._start("", "--descriptor", str(theirs.fileno()), descriptors=[theirs.fileno()])
        return SharedMemoryClient(ours)

    def _start_with_ipc(self) -> ClientChannel:
        # A folder that only this user can enter; it goes as soon as both ends have met.
        directory = tempfile.mkdtemp(prefix="split-llama-")
        self._meeting.callback(shutil.rmtree, directory, ignore_errors=True)
        endpoint = parse_endpoint(f"ipc://{directory}/worker", "zmq-msgpack")
        self._start(directory, "--endpoint", str(endpoint))
        client = ZmqClient(str(endpoint))
        self._resources.callback(client.close)
        pidfd = os.pidfd_open(self.process.pid)
        self._resources.callback(os.close, pidfd)
        client.watch(pidfd)
        return client

    def _start(self, meeting: str, *where: str, descriptors: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "runtime.child",
                str(os.getpid()),
                meeting,
                *self._worker,
                *where,
            ],
            env=self._environment,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stderr=self._errors,
        )
        self._resources.callback(self._end)

    def met(self) -> None:
        """Remove what was needed only to find each other."""
        self._meeting.close()

    def last_words(self) -> str:
        """Return what a worker that ended by itself said last; an empty text if it runs or said nothing."""
        try:
            self.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("worker: ") if lines else ""

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self) -> None:
        """End the process and release the road. Closing twice is allowed."""
        self.channel.close()
        self._resources.close()
