"""A process that is asked in JSON lines and answers in JSON lines: one request, one answer.

A program can serve such a conversation on any pair of files; ``Unsplit`` and the comparison's drivers do.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from perfsuite.errors import PerfsuiteError

DEATH_TIMEOUT_S = 2.0


class Conversation:
    """A program that runs in a process group of its own; a context manager that ends the whole group.

    It starts at once and in the background. ``title`` names it in errors, which are of the class
    ``error``: it did not start, died, refused (``{"error": ...}``), or missed its deadline. Ctrl-C is
    the caller's to handle; the program ends when its stdin does.
    """

    def __init__(
        self,
        command: Sequence[str],
        title: str,
        error: type[PerfsuiteError],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._title, self._error = title, error
        self._received = b""
        with ExitStack() as resources:
            # Not a pipe: nobody reads while the program runs, and a full pipe would stop it.
            self._stderr = resources.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=folder,
                env=environment,
                process_group=0,
            )
            self._resources = resources.pop_all()

    @property
    def pid(self) -> int:
        """The id of the program's process."""
        return self._process.pid

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request; its answer is the next that ``receive`` returns."""
        try:
            send_line(self._pipe(self._process.stdin), request)
        except OSError as error:
            raise self._death() from error

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next answer, at most ``timeout_s`` seconds from now."""
        deadline = time.monotonic() + timeout_s
        descriptor = self._pipe(self._process.stdout).fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._received:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
                self._process.kill()  # its answer would come when nobody waits for it
                raise self._error(f"{self._title} did not answer within its deadline")
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                raise self._death()
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._error(f"{self._title}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the program and all that it started, and wait for it. May be called twice."""
        # Nothing in the group needs a farewell. The leader is not waited for before, so that its
        # number cannot have become another group's.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # a request that was not taken any more
                self._pipe(pipe).close()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _death(self) -> PerfsuiteError:
        """What is known of a program that ended by itself: its status and last words."""
        try:
            status: int | None = self._process.wait(DEATH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = None
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        return self._error(f"{self._title} ended with status {status}: {words or 'no message'}")

    def _pipe(self, pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise self._error(f"{self._title} has no pipe")
        return pipe


def claim_stdout() -> IO[bytes]:
    """Keep stdout for answers alone: what a library prints goes to stderr from here on."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return answers


def send_line(pipe: IO[bytes], message: Mapping[str, Any]) -> None:
    """Write one request or answer."""
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:  # an unbuffered pipe may take less than all
        data = data[pipe.write(data) :]
    pipe.flush()
