"""The servers as the measuring side uses them: what a server opens is a contender."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfsuite.conversation import Conversation
from perfsuite.errors import PerfsuiteError
from perfsuite.gate.pairing import Contender, Open, Timed

_DRIVER = Path(__file__).with_name("driver.py")
_START_TIMEOUT_S = 300.0
_FORWARD_TIMEOUT_S = 300.0
_CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Workload:
    """What is run: a model by what ``load_checkpoint`` knows it by, in any folder; the prompt's length."""

    model: str
    tokens: int
    device: str
    threads: int  # of each process
    cpu: int | None = None  # the processor that all processes share; None: any


def shared_processor(threads: int) -> int | None:
    """Return the processor on which everything runs in turn, None where one thread is not enough.

    The sides wait for each other, and so does the yardstick: another processor gains them nothing, and it
    may be slowed by another neighbour. Measured, processes differ half as much from each other in this way.
    """
    return max(os.sched_getaffinity(0)) if threads == 1 else None


class Server:
    """A server that is being started; ``timed`` is every run of its sessions so far.

    What it opens, one after the other, and all methods raise the conversation's error where the server
    fails. One that ``failed`` must not be used again.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._greeting: dict[str, Any] | None = None
        self._answered = True
        self.timed: list[Timed] = []

    @property
    def failed(self) -> bool:
        """Whether the last request got no answer, or a refusal."""
        return not self._answered

    @property
    def greeting(self) -> dict[str, Any]:
        """What it says when it has started; waits for it."""
        if self._greeting is None:
            self._answered = False
            self._greeting = self._conversation.receive(_START_TIMEOUT_S)
            self._answered = True
        return self._greeting

    def opener(self, wanted: Mapping[str, Any]) -> Open:
        """Return what opens a session with these options, in fresh processes."""

        @contextmanager
        def opened() -> Iterator[Contender]:
            _ = self.greeting
            pids = self._ask({"open": wanted}, _START_TIMEOUT_S)["pids"]
            try:
                yield Contender(run, tuple(pids))
            finally:
                if not self.failed:  # else the whole server is ended soon
                    self._ask({"close": True}, _CLOSE_TIMEOUT_S)

        def run() -> Timed:
            answer = self._ask({"run": True}, _FORWARD_TIMEOUT_S)
            timed = Timed(float(answer["seconds"]), answer["phases"])
            self.timed.append(timed)
            return timed

        return opened

    def close(self) -> None:
        """End it and all that it started."""
        self._conversation.close()

    def _ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        self._answered = False
        self._conversation.send(request)
        answer = self._conversation.receive(timeout_s)
        self._answered = True
        return answer


def start_driver(
    folder: Path,
    title: str,
    error: type[PerfsuiteError],
    *,
    python: Path = Path(sys.executable),
    scratch: Path | None = None,
) -> Server:
    """Start the server of the ``runtime`` in ``folder``; its temporary files lie in ``scratch``."""
    # -P: the driver's own folder is no place to import from. The tree comes before what is installed.
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    if scratch is not None:
        environment["TMPDIR"] = str(scratch)
    command = [str(python), "-P", str(_DRIVER)]
    return Server(Conversation(command, title, error, folder=folder, environment=environment))


def start_unsplit(error: type[PerfsuiteError]) -> Server:
    """Start the server of the unsplit model."""
    command = [sys.executable, "-m", "perfsuite.forked.unsplit"]
    # Asked in its other way, torch says whether there is a GPU at the price that no fork can use it.
    environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    return Server(Conversation(command, "the unsplit model", error, environment=environment))
