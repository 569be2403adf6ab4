"""Starting and ending the worker's process, so that nothing of it is left whichever side ends first."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import ExitStack

import zmq

from runtime.errors import EndpointError, WorkerError
from runtime.stages import Stage
from runtime.text import printable
from runtime.transports.endpoints import IPC, LONGEST_SOCKET_PATH
from runtime.transports.registry import TRANSPORTS
from runtime.watched_process import end, environment, start

_LAST_WORDS_S = (
    10.0  # of a worker whose connection has ended: it is about to end, on a busy machine too
)
_DEEPEST = LONGEST_SOCKET_PATH - len("/split-llama-........./worker")


class WorkerProcess:
    """A worker that this process started, and the way to it. ``process`` is the one that watches it."""

    def __init__(self, model: str, stage: Stage, device: str, threads: int) -> None:
        """Start it.

        Raises:
            WorkerError: if this process may not have what it needs for that: descriptors, processes, files.
            EndpointError: if the temporary folder is too deep for a socket.
        """
        try:
            self._start(model, stage, device, threads)
        except (OSError, zmq.ZMQError) as error:
            raise WorkerError(
                f"worker: cannot be started: {printable(error.strerror or str(error))}"
            ) from error

    def _start(self, model: str, stage: Stage, device: str, threads: int) -> None:
        with ExitStack() as resources:
            # Not a pipe: nobody reads while the worker runs, and a full pipe would stop it.
            self._errors = resources.enter_context(tempfile.TemporaryFile())
            self._meeting = resources.enter_context(ExitStack())
            transport = TRANSPORTS[stage.transport]
            if transport.scheme == IPC:
                _check_depth(tempfile.gettempdir())
            meeting = self._meeting.enter_context(transport.meet(transport.scheme))
            self.process = start(
                "runtime.worker",
                [
                    "--model", model, "--stage", stage.name, "--device", device, "--threads", str(threads),
                    "--endpoint", meeting.endpoint,
                ],
                environment(threads),
                stderr=self._errors,
                descriptors=meeting.descriptors,
                folder=meeting.folder,
            )  # fmt: skip
            resources.callback(self.end)
            self.channel = meeting.connect()
            resources.callback(self.channel.close)
            pidfd = os.pidfd_open(self.process.pid)
            resources.callback(os.close, pidfd)
            self.channel.watch(pidfd)
            self._resources = resources.pop_all()

    def connected(self) -> None:
        """Remove what was needed only to find each other."""
        self._meeting.close()

    def stderr_tail(self) -> str:
        """Return what a worker that ended by itself said last; an empty text if it runs or said nothing."""
        try:
            self.process.wait(_LAST_WORDS_S)
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
        end(self.process)

    def close(self) -> None:
        """End the process and release the way to it. Closing twice is allowed."""
        self.end()
        self._resources.close()


def _check_depth(folder: str) -> None:
    """Refuse a temporary folder in which no socket could have a path.

    Raises:
        EndpointError: saying what to set.
    """
    if len(os.fsencode(folder)) > _DEEPEST:
        raise EndpointError(
            f"endpoint: the temporary folder {folder} is too deep for a socket's path ({_DEEPEST} bytes at most); "
            "set TMPDIR to a shorter one"
        )
