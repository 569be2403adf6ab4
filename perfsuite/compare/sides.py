"""Head and BASE as what the gate pairs: each side's driver process, and the stages that it opens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import RevisionError
from perfsuite.forked.servers import Server, Workload, start_driver
from perfsuite.gate.pairing import Open, Timed


@dataclass(frozen=True)
class Tree:
    """One side: how it is called, where its files are, and the interpreter that runs them."""

    title: str
    folder: Path
    python: Path = Path(sys.executable)


class Side:
    """A running driver of one tree."""

    def __init__(self, server: Server, workload: Workload) -> None:
        self._server, self._workload = server, workload
        self.stages: list[str] = server.greeting["stages"]

    @property
    def failed(self) -> bool:
        """Whether the last request got no answer, or a refusal."""
        return self._server.failed

    @property
    def timed(self) -> list[Timed]:
        """Every run so far."""
        return self._server.timed

    def opener(self, stage: str) -> Open:
        """Return what opens ``stage`` in fresh processes: a trusted one and a worker.

        It and what it opens raise RevisionError where this tree's runtime fails.
        """
        return self._server.opener({"stage": stage, **vars(self._workload)})


@contextmanager
def sides(head: Tree, base: Tree, workload: Workload, scratch: Path) -> Iterator[tuple[Side, Side]]:
    """Start both trees' drivers, side by side, and end them and all that they started.

    Their temporary files lie in ``scratch``, because what is killed cannot remove them.

    Raises:
        RevisionError: if a tree has no runtime that can be imported.
    """
    with _driver(head, scratch) as of_head, _driver(base, scratch) as of_base:
        yield Side(of_head, workload), Side(of_base, workload)


def _driver(tree: Tree, scratch: Path) -> AbstractContextManager[Server]:
    return closing(
        start_driver(tree.folder, tree.title, RevisionError, python=tree.python, scratch=scratch)
    )
