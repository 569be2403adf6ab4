"""The measuring side of a server: what it starts, and the processes that it opens."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfsuite.errors import BenchmarkError, PerfsuiteError
from perfsuite.processes.program import Program

_MAIN = Path(__file__).with_name("__main__.py")
_START_TIMEOUT_S = 300.0
_CLOSE_TIMEOUT_S = 60.0
_MOST_PADDING = 4096  # bytes of environment, which move the stack

# What would make a measured process watch itself, or report as if it were the session that measures.
_DROPPED_VARIABLES = frozenset(
    (
        "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "COVERAGE_RUN", "COV_CORE_SOURCE",
        "COV_CORE_CONFIG", "COV_CORE_DATAFILE", "COV_CORE_BRANCH", "COV_CORE_CONTEXT", "GITHUB_ACTIONS",
        "GITHUB_STEP_SUMMARY", "PYTEST_CURRENT_TEST", "PYTEST_VERSION", "PYTEST_XDIST_WORKER",
        "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID",
    )
)  # fmt: skip
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


class MissingTest(BenchmarkError):
    """The tree has no such test."""


class FailedTest(BenchmarkError):
    """The test failed in the measured process before or in its gate."""


@dataclass(frozen=True)
class Target:
    """What a server collects, and how."""

    title: str  # names it in errors
    file: Path
    arguments: Sequence[str] = ()  # of pytest, but for the file
    options: Mapping[str, Any] = field(default_factory=dict)  # pytest's, by their destinations
    folder: Path = field(default_factory=Path.cwd)  # the current one of its processes
    python: Path = Path(sys.executable)
    path: Sequence[str] = ()  # put before what its interpreter would import from
    environment: Mapping[str, str] = field(default_factory=dict)  # added
    fork: bool = True
    threads: int = 1  # compute threads of each process; 0: as many as its libraries choose
    timeout_s: float = 600.0  # for a test to reach its gate, and for each block of calls


@dataclass(frozen=True)
class Timed:
    """Some runs in a row."""

    seconds: Sequence[float]  # of a call, in each run
    phases: Sequence[Mapping[str, float]]  # seconds, in each run; empty where nobody traced them
    cpu_s: float  # processor seconds of the process and its children, since they began
    peak_bytes: int | None
    waited: float = 0.0  # share of the time in which others had its processor


class Sampled:
    """A process that is stopped at its gate."""

    def __init__(self, server: Server, opened: Mapping[str, Any]) -> None:
        self._server = server
        self.notes: Sequence[str] = opened["notes"]
        self.server = server.name

    def calibrate(self, role: str, run_s: float) -> tuple[int, float]:
        """Return how many calls make a run of at least ``run_s`` seconds, and the seconds of one, set-up included."""
        answer = self._server.ask({"calibrate": {"role": role, "run_s": run_s}})
        return int(answer["loops"]), float(answer["seconds"])

    def measure(self, role: str, *, runs: int, loops: int, discarded: int) -> Timed:
        """Time ``runs`` runs of ``loops`` calls each, after ``discarded`` that are not timed."""
        asked = {"role": role, "runs": runs, "loops": loops, "discarded": discarded}
        answer = self._server.ask({"measure": asked})
        return Timed(
            answer["seconds"],
            answer["phases"],
            answer["cpu_s"],
            answer["peak_bytes"],
            answer["waited"],
        )


class Server(Program):
    """A process that has collected the target and waits; it starts at once and in the background.

    All methods raise BenchmarkError, which names the target, where it did not start, died, refused or missed
    its deadline. One that ``failed`` must not be used again.
    """

    def __init__(self, target: Target, scratch: Path) -> None:
        seed = random.SystemRandom().randrange(1, 1 << 32)
        self.name = f"{seed:08x}"
        self._target = target
        self._nodes: list[str] | None = None
        super().__init__(
            # -P: the package's own folder is no place to import from.
            [str(target.python), "-P", str(_MAIN)],
            target.title,
            BenchmarkError,
            folder=target.folder,
            environment=_environment(target, seed),
        )
        arguments = [*target.arguments, f"--basetemp={scratch / self.name}", str(target.file)]
        start = {
            "arguments": arguments,
            "options": dict(target.options),
            "path": list(target.path),
            "fork": target.fork,
        }
        try:
            self.send({"start": start})
        except BaseException:  # it has ended already, and nobody else will close what is open
            self.close()
            raise

    @property
    def nodes(self) -> list[str]:
        """The tests that it has collected; waits for it."""
        if self._nodes is None:
            self._nodes = self.receive(_START_TIMEOUT_S)["ready"]
        return self._nodes

    def ask(self, request: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        return super().ask(request, self._target.timeout_s if timeout_s is None else timeout_s)

    @contextmanager
    def open(
        self,
        node: str,
        benchmark: str,
        *,
        references: Sequence[str],
        cpu: int | None,
        delays: Mapping[str, float],
    ) -> Iterator[Sampled]:
        """Run the test ``node`` in a fresh process up to the gate ``benchmark``; it is torn down after the block.

        Raises:
            MissingTest: if the tree has no such test.
            FailedTest: if it fails, or does not reach the gate.
        """
        _ = self.nodes
        wanted = {
            "node": node,
            "benchmark": benchmark,
            "references": list(references),
            "cpu": cpu,
            "delays": dict(delays),
        }
        self._opened = False
        sampled = Sampled(self, self.ask({"open": wanted})["opened"])
        self._opened = True
        try:
            yield sampled
        finally:
            if self._opened and not self.failed:
                self.ask({"close": {}}, _CLOSE_TIMEOUT_S)
            # Without forking it has served one process, itself, and is gone.
            self.failed |= not self._target.fork

    def refusal(self, answer: Mapping[str, Any]) -> PerfsuiteError:
        kind = {"missing": MissingTest, "test": FailedTest}.get(answer.get("kind", ""))
        if kind is None:
            refused = super().refusal(answer)
            tail = self.tail()
            return refused if tail in str(refused) else BenchmarkError(f"{refused}\n{tail}")
        self._opened = False  # its process is gone, and the server waits for the next request
        return kind(f"{self._target.title}: {answer['error']}")


def _environment(target: Target, seed: int) -> dict[str, str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in _DROPPED_VARIABLES
    }
    if target.threads:
        environment.update(dict.fromkeys(_THREAD_VARIABLES, str(target.threads)))
    environment.update(target.environment)
    environment["PYTHONHASHSEED"] = str(seed)
    environment["PERFSUITE_PADDING"] = "." * (seed % _MOST_PADDING)
    return environment
