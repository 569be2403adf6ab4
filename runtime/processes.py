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
from pathlib import Path

from runtime.stages import Stage
from runtime.transports.base import ClientChannel
from runtime.transports.shared_memory import SharedMemoryClient
from runtime.transports.zmq_msgpack import ZmqClient

# The sides take turns on the same cores: one that waits must not spin on a core the other needs.
_OPENMP = {"OMP_WAIT_POLICY": "passive"}

_GRACE_S = 2.0  # for a worker that is told to end, before it is made to


class WorkerProcess:
    """A worker that this process started, and the road to it."""

    def __init__(self, model: str, stage: Stage, device: str, threads: int) -> None:
        self._resources = ExitStack()
        # Not a pipe: nobody reads while the worker runs, and a full pipe would stop it.
        self._errors = self._resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._meeting = self._resources.enter_context(ExitStack())
        command = [
            sys.executable, "-m", "runtime.worker", "--model", model, "--stage", stage.name,
            "--device", device, "--threads", str(threads), "--parent", str(os.getpid()),
        ]  # fmt: skip
        start = (
            self._start_with_socket if stage.transport == "shared-memory" else self._start_with_ipc
        )
        self.channel: ClientChannel = start(command, threads)

    def _start_with_socket(self, command: Sequence[str], threads: int) -> ClientChannel:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._start(
                [*command, "--descriptor", str(theirs.fileno())], threads, [theirs.fileno()]
            )
        return SharedMemoryClient(ours)

    def _start_with_ipc(self, command: Sequence[str], threads: int) -> ClientChannel:
        # A folder that only this user can enter; it goes as soon as both ends have met.
        directory = tempfile.mkdtemp(prefix="split-llama-")
        self._meeting.callback(shutil.rmtree, directory, ignore_errors=True)
        endpoint = f"ipc://{Path(directory) / 'worker'}"
        self._start([*command, "--endpoint", endpoint], threads, [])
        client = ZmqClient(endpoint)
        pidfd = os.pidfd_open(self.process.pid)
        self._resources.callback(os.close, pidfd)
        client.watch(pidfd)
        return client

    def _start(self, command: Sequence[str], threads: int, descriptors: Sequence[int]) -> None:
        environment = dict(os.environ)
        environment.update(_OPENMP, OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stderr=self._errors,
        )

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

    def close(self) -> None:
        """End the process and release the road. Closing twice is allowed."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._resources.close()
