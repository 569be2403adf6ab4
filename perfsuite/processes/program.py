"""A program in a process group of its own that is asked and answers over a socket; see ``protocol``."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from perfsuite.errors import PerfsuiteError
from perfsuite.processes.protocol import Ended, Late, Lines

_DEATH_TIMEOUT_S = 2.0
_TAIL_LINES = 12


class Program:
    """A program that starts at once and in the background; a context manager that ends its whole group.

    The number of its end of the socket is added to ``command``. ``title`` names it in errors, which are of
    the class ``error``: it did not start, died, refused (``{"error": ...}``), or missed its deadline.
    One that ``failed`` must not be used again. Ctrl-C is the caller's to handle.
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
        self.failed = False
        with ExitStack() as resources:
            # Not a pipe: nobody reads while the program runs, and a full pipe would stop it.
            self._output = resources.enter_context(tempfile.TemporaryFile())
            ours, theirs = socket.socketpair()
            self._lines = Lines(ours)
            resources.callback(self._lines.close)
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    process_group=0,
                )
            self._resources = resources.pop_all()

    @property
    def pid(self) -> int:
        """The id of the program's process."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.send(request)
        return self.receive(timeout_s)

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request; its answer is the next that ``receive`` returns."""
        try:
            self._lines.send(request)
        except Ended as error:
            raise self._death() from error

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next answer, at most ``timeout_s`` seconds from now."""
        try:
            answer = self._lines.receive(timeout_s)
        except Late as error:
            self.failed = True
            self._kill()  # its answer would come when nobody waits for it
            raise self._error(
                f"{self._title} did not answer within its deadline of {timeout_s:.0f} s"
            ) from error
        except Ended as error:
            raise self._death() from error
        if "error" in answer:
            raise self.refusal(answer)
        return answer

    def refusal(self, answer: Mapping[str, Any]) -> PerfsuiteError:
        """Return the error that an answer of the program's stands for."""
        self.failed = True
        return self._error(f"{self._title}: {answer['error']}")

    def tail(self) -> str:
        """Return the end of what it has printed."""
        self._output.seek(0)
        text = self._output.read().decode(errors="replace").strip()
        return "\n".join(text.split("\n")[-_TAIL_LINES:])

    def close(self) -> None:
        """End the program and all that it started, and wait for it. May be called twice."""
        self._kill()
        self._process.wait()
        self._resources.close()
        self.failed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _kill(self) -> None:
        # Nothing in the group needs a farewell. The leader is not waited for before, so that its
        # number cannot have become another group's.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _death(self) -> PerfsuiteError:
        """What is known of a program that ended by itself: its status and the end of its output."""
        self.failed = True
        try:
            status: int | None = self._process.wait(_DEATH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = None
        return self._error(
            f"{self._title} ended with status {status}: {self.tail() or 'no message'}"
        )
