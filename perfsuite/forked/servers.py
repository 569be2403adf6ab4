"""The servers as the measuring side uses them: what a server opens is a contender."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perfsuite.conversation import Conversation
from perfsuite.errors import PerfsuiteError
from perfsuite.gate.pairing import Contender, Open, Timed

_DRIVER = Path(__file__).with_name("driver.py")
PAIRS = 4  # each of them takes 5 s to start, and 0.5 GB
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

    @property
    def options(self) -> dict[str, Any]:
        """What a session is opened with, and the processor that all processes share."""
        return {**asdict(self), "cpu": shared_processor(self.threads)}


def shared_processor(threads: int) -> int | None:
    """Return the processor on which everything runs in turn, None where one thread is not enough.

    The sides wait for each other, and so does the yardstick: another processor gains them nothing, and it
    may be slowed by another neighbour. Measured, processes differ half as much from each other in this way.
    """
    return max(os.sched_getaffinity(0)) if threads == 1 else None


class Server:
    """A server that is being started.

    What it opens, one after the other, and all methods raise the conversation's error where the server
    fails. One that ``failed`` must not be used again.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._greeting: dict[str, Any] | None = None
        self._answered = True
        self._timed: list[Timed] = []

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

    def take_timed(self) -> list[Timed]:
        """Return every run of its sessions since the last call."""
        taken, self._timed = self._timed, []
        return taken

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
            self._timed.append(timed)
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


class Servers:
    """Pairs of servers, used in turn; a context manager that ends them.

    What is forked from one server has its layout of memory, and by that a speed of its own: the ratio of two
    servers' processes differs by 1.6 % between pairs (standard deviation of 7, where processes of one pair
    differ by 2.5 %). So one pair's processes are not independent, however many there are.
    """

    def __init__(self, start: Callable[[], tuple[Server, Server]], pairs: int = PAIRS) -> None:
        self._start, self._wanted = start, pairs
        self._pairs: list[tuple[Server, Server]] = []

    def running(self) -> list[tuple[Server, Server]]:
        """Return all pairs, ready; they are started at the first use, and again after one has failed."""
        if not self._pairs or any(server.failed for server in itertools.chain(*self._pairs)):
            self.close()
            self._pairs = [self._start() for _ in range(self._wanted)]
        for server in itertools.chain(*self._pairs):
            _ = server.greeting  # one that is still starting would disturb what is measured
        return self._pairs

    def openers(self, wanted: Sequence[Mapping[str, Any]]) -> tuple[Open, Open]:
        """Return what opens a session of each kind with these options, of another pair each time."""

        def opener(kind: int) -> Open:
            turns = itertools.count()

            def opened() -> AbstractContextManager[Contender]:
                pairs = self.running()
                return pairs[next(turns) % len(pairs)][kind].opener(wanted[kind])()

            return opened

        return opener(0), opener(1)

    @property
    def started(self) -> Sequence[tuple[Server, Server]]:
        """The pairs that run, or have failed."""
        return self._pairs

    def close(self) -> None:
        """End all, if they run: the next use starts new ones."""
        for server in itertools.chain(*self._pairs):
            server.close()
        self._pairs = []

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


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
