"""A few servers of one target, used in turn.

What is forked from one server has its layout of memory and its hash seed, and by that a speed of its own: such
processes are alike, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from perfsuite.processes.forkserver import Sampled, Server, Target


class Pool:
    """Servers that start in the background when the first is used; a context manager that ends them."""

    def __init__(
        self,
        target: Target,
        scratch: Path,
        *,
        servers: int,
        at_once: int | None = None,
        start: Callable[[Target, Path], Server] = Server,
    ) -> None:
        """Use up to ``servers``, of which ``at_once`` start whenever all have had their turn."""
        self._target, self._scratch, self._start = target, scratch, start
        self._most = servers if target.fork else 1
        self._at_once = min(at_once or servers, self._most)
        self._servers: list[Server] = []
        self._turn = 0

    @property
    def nodes(self) -> list[str]:
        """The tests that the target has."""
        self._fill(1)
        return self._servers[0].nodes

    @contextmanager
    def open(
        self,
        node: str,
        benchmark: str,
        *,
        references: Sequence[str] = (),
        cpu: int | None = None,
        delays: Mapping[str, float] | None = None,
    ) -> Iterator[Sampled]:
        """Open a fresh process of the server whose turn it is; see ``Server.open``."""
        with self._next().open(
            node, benchmark, references=references, cpu=cpu, delays=delays or {}
        ) as sampled:
            yield sampled

    def renew(self) -> None:
        """Replace all servers by new ones, which start now."""
        self.close()
        self._fill(self._at_once)

    def close(self) -> None:
        """End all; the next use starts new ones."""
        for server in self._servers:
            server.close()
        self._servers, self._turn = [], 0

    def _fill(self, wanted: int) -> None:
        while len(self._servers) < wanted:
            self._servers.append(self._start(self._target, self._scratch))

    def _next(self) -> Server:
        for server in [server for server in self._servers if server.failed]:
            server.close()
            self._servers.remove(server)
        # Whole batches: what starts while something is measured would disturb it.
        batches = self._turn // self._at_once + 1
        self._fill(min(self._most, batches * self._at_once))
        for server in self._servers:
            _ = server.nodes
        server = self._servers[self._turn % len(self._servers)]
        self._turn += 1
        return server

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
