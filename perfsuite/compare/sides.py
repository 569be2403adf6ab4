"""Head and BASE as what the gate pairs: each side's driver process, and the stages that it opens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfsuite.conversation import Conversation
from perfsuite.errors import RevisionError
from perfsuite.gate.pairing import Contender, Open, Timed

_DRIVER = Path(__file__).with_name("driver.py")
_START_TIMEOUT_S = 300.0
_FORWARD_TIMEOUT_S = 300.0
_CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Tree:
    """One side: how it is called, where its files are, and the interpreter that runs them."""

    title: str
    folder: Path
    python: Path = Path(sys.executable)


@dataclass(frozen=True)
class Workload:
    """What every stage is asked to do."""

    model: str
    tokens: int
    device: str
    threads: int


class Side:
    """A running driver of one tree; ``timed`` is every run of its stages so far."""

    def __init__(self, conversation: Conversation, stages: list[str], workload: Workload) -> None:
        self.stages = stages
        self.timed: list[Timed] = []
        self._conversation, self._workload = conversation, workload
        self._answered = True

    @property
    def failed(self) -> bool:
        """Whether the last request got no answer, or a refusal."""
        return not self._answered

    def opener(self, stage: str) -> Open:
        """Return what opens ``stage`` in fresh processes: a trusted one and a worker.

        It and what it opens raise RevisionError where this tree's runtime fails.
        """

        @contextmanager
        def opened() -> Iterator[Contender]:
            wanted = {"stage": stage, **vars(self._workload), "cpus": _cpus(self._workload.threads)}
            pids = self._ask({"open": wanted}, _START_TIMEOUT_S)["pids"]
            yield Contender(run, tuple(pids))
            if not self.failed:  # else the whole driver is ended soon
                self._ask({"close": True}, _CLOSE_TIMEOUT_S)

        def run() -> Timed:
            answer = self._ask({"run": True}, _FORWARD_TIMEOUT_S)
            timed = Timed(float(answer["seconds"]), answer["phases"])
            self.timed.append(timed)
            return timed

        return opened

    def _ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        self._answered = False
        self._conversation.send(request)
        answer = self._conversation.receive(timeout_s)
        self._answered = True
        return answer


@contextmanager
def sides(head: Tree, base: Tree, workload: Workload, scratch: Path) -> Iterator[tuple[Side, Side]]:
    """Start both trees' drivers, side by side, and end them and all that they started.

    Their temporary files lie in ``scratch``, because what is killed cannot remove them.

    Raises:
        RevisionError: if a tree has no runtime that can be imported.
    """
    with _driver(head, scratch) as of_head, _driver(base, scratch) as of_base:
        started = [
            Side(conversation, conversation.receive(_START_TIMEOUT_S)["stages"], workload)
            for conversation in (of_head, of_base)
        ]
        yield started[0], started[1]


def _cpus(threads: int) -> list[int] | None:
    """Return a processor each for the trusted process and the worker, None where they need more.

    They take turns; where the scheduler moves them about, what a pair of runs gives varies more.
    """
    available = sorted(os.sched_getaffinity(0))
    return available[:2] if threads == 1 and len(available) > 1 else None


def _driver(tree: Tree, scratch: Path) -> Conversation:
    # -P: the driver's own folder is no place to import from. The tree comes before what is installed.
    command = [str(tree.python), "-P", str(_DRIVER)]
    path = os.pathsep.join(filter(None, [str(tree.folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(scratch)}
    return Conversation(
        command, tree.title, RevisionError, folder=tree.folder, environment=environment
    )
