"""Head and BASE as what the gate pairs: each side's driver process, and the stages that it opens."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import RevisionError
from perfsuite.forked.servers import Server, Servers, Workload, start_driver
from perfsuite.gate.pairing import Open, Timed


@dataclass(frozen=True)
class Tree:
    """One side: how it is called, where its files are, and the interpreter that runs them."""

    title: str
    folder: Path
    python: Path = Path(sys.executable)


class Sides:
    """Head and BASE of one comparison; a context manager that ends both and all that they started.

    Their temporary files lie in ``scratch``, because what is killed cannot remove them. Every method, and what the
    openers open, raises RevisionError where a tree's runtime fails.
    """

    def __init__(self, head: Tree, base: Tree, workload: Workload, scratch: Path) -> None:
        self._workload = workload

        def start(tree: Tree) -> Server:
            return start_driver(
                tree.folder, tree.title, RevisionError, python=tree.python, scratch=scratch
            )

        self._servers = Servers(lambda: (start(head), start(base)))
        self.renew = self._servers.close

    def stages(self) -> tuple[list[str], list[str]]:
        """Return what head's runtime has, and what BASE's has."""
        head, base = self._servers.running()[0]
        return head.greeting["stages"], base.greeting["stages"]

    def openers(self, stage: str) -> tuple[Open, Open]:
        """Return what opens ``stage`` of head and of BASE in fresh processes: a trusted one and a worker."""
        wanted = {"stage": stage, **self._workload.options}
        return self._servers.openers((wanted, wanted))

    @property
    def head_failed(self) -> bool:
        """Whether it was head that failed last."""
        return any(head.failed for head, _ in self._servers.started)

    def timed(self) -> tuple[list[Timed], list[Timed]]:
        """Return every run of head and of BASE since the last call."""
        taken = tuple(
            [run for pair in self._servers.started for run in pair[kind].take_timed()]
            for kind in (0, 1)
        )
        return taken[0], taken[1]

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *error: object) -> None:
        self._servers.close()
