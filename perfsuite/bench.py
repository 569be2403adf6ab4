"""Where a run's benchmarks are measured: pools of processes by test file, baselines by ini file, or two revisions."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perfsuite import pairs, targets
from perfsuite.benchmark_code import code_hash
from perfsuite.compare.recorded import revision_of
from perfsuite.compare.revisions import Revision
from perfsuite.errors import BenchmarkError, UsageError
from perfsuite.files import check_writable
from perfsuite.gate import gate
from perfsuite.gate.baselines import Baselines
from perfsuite.gate.gate import DEFAULT_MARGIN, Case, Gate, Rules
from perfsuite.gate.outcome import UNDECIDED, Outcome, Status
from perfsuite.locating import baselines_file
from perfsuite.machine import fingerprint
from perfsuite.processes.benchmark import Benchmark
from perfsuite.processes.forkserver import MissingTest
from perfsuite.processes.pool import Pool
from perfsuite.processes.references import OWN, offered
from perfsuite.settings import IMPROVED, RECORD, Settings

_FINGERPRINT = ("cpu", "cpu_model", "python", "threads")
_SHARE_OF_TIMEOUT = 0.5  # that is planned; a red verdict is confirmed beyond
_OF_TORCH = ("torch", "cuda", "gpu", "driver")


class Bench:
    """All that is measured with; ``close`` ends every process and removes what they left."""

    def __init__(
        self, config: pytest.Config, settings: Settings, tests: Sequence[pytest.Item]
    ) -> None:
        """``tests`` are those of the run that have a gate."""
        self._config, self._settings = config, settings
        self._files = sorted({Path(item.path) for item in tests})
        self._rules = Rules(
            processes=settings.processes,
            looks=settings.looks,
            time_limit_s=settings.time_limit_s,
            subjects=max(1, len(tests)),
            seed=int.from_bytes(os.urandom(4)),
        )
        self._resources = ExitStack()
        self._pools: dict[tuple[Path, bool, str | None], tuple[Pool, ...]] = {}
        self._baselines: dict[Path, Baselines] = {}
        self._scratch: Path | None = None
        self._trees: dict[str, Sequence[Any] | UsageError] = {}  # by the revision of base
        self._revisions: dict[Any, Revision | UsageError] = {}  # by file and provenance

    @property
    def machine(self) -> Mapping[str, Any]:
        """What this machine is, as far as latencies hang on it."""
        return fingerprint(self._settings.threads)

    @property
    def titles(self) -> list[str] | None:
        """How head and base of a comparison are called."""
        trees = self._trees.get(str(self._settings.against))
        return [tree.title for tree in trees] if isinstance(trees, tuple) else None

    def check(
        self,
        item: pytest.Item,
        benchmark: Benchmark,
        delays: Mapping[str, float],
        progress: Callable[[int], None],
    ) -> Outcome:
        """Measure and judge, or record."""
        file = Path(item.path)
        fork = self._settings.fork if benchmark.fork is None else benchmark.fork
        case = self._case(item, benchmark)
        cpu = shared_processor(self._settings.threads)
        against, began = self._settings.against, time.monotonic()
        rules = replace(self._rules, time_limit_s=self._limit_s(item))

        def compare(base: str, margin: float | None = case.margin) -> Outcome:
            pools = self._pools_of(file, fork, base)
            titles = [tree.title for tree in self._prepared(base)]
            judged = replace(case, margin=margin)
            return self._compare(judged, pools, titles, rules, cpu, delays, progress)

        if against is not None:
            return compare(against)
        (pool,) = self._pools_of(file, fork, None)
        opened = pairs.within(pool, case.node, case.name, cpu=cpu, delays=delays)
        baselines = self._baselines_of(item)
        if self._settings.update is not None:
            check_writable(baselines.path, option="baselines")
        update = self._settings.update
        if update in (None, IMPROVED):
            base = self._recorded(case, baselines)
            subject_gate = Gate(baselines, replace(rules, in_turn=isinstance(base, Revision)))
            outcome = subject_gate.check(case, opened, pool.renew, progress)
            if update != IMPROVED or outcome.status is not Status.IMPROVED:
                if outcome.status in UNDECIDED and base is not None:
                    left_s = rules.time_limit_s
                    if rules.time_limit_s < self._rules.time_limit_s:  # a timeout ends the test
                        left_s -= time.monotonic() - began
                    rules = replace(rules, time_limit_s=left_s)
                    if left_s <= 0:
                        base = UsageError("its timeout leaves no time")
                    settle(outcome, base, compare, case.margin)
                return outcome
        return Gate(baselines, rules).record(
            case, opened, progress, extend=update not in (RECORD, IMPROVED)
        )

    def _recorded(self, case: Case, baselines: Baselines) -> Revision | UsageError | None:
        """Return the commit whose code the baseline is of, or why it cannot be used; None if nobody asks."""
        entry = baselines.find(case.name, case.machine, case.workload)
        if entry is None or not self._settings.in_turn:
            return None
        recorded = entry.recordings[-1].recorded
        # Looked for once: most benchmarks are recorded together, and git may walk through the whole history.
        key = (baselines.path, tuple(sorted(recorded.items())))
        if key not in self._revisions:
            try:
                self._revisions[key] = revision_of(recorded, self._config.rootpath, baselines.path)
            except UsageError as error:
                self._revisions[key] = error
        base = self._revisions[key]
        prepared = None if isinstance(base, UsageError) else self._trees.get(base.commit)
        return prepared if isinstance(prepared, UsageError) else base

    def unused(self, names: set[str]) -> list[str]:
        """Return the stored names of this machine that are not among ``names``."""
        machine = self._fingerprint()
        return sorted(
            {
                entry.name
                for one in self._baselines.values()
                for entry in one.entries
                if dict(entry.machine) == machine and entry.name not in names
            }
        )

    def close(self) -> None:
        """End all; may be called twice."""
        for pools in self._pools.values():
            for pool in pools:
                pool.close()
        self._pools = {}
        self._resources.close()

    def _case(self, item: pytest.Item, benchmark: Benchmark) -> Case:
        own = benchmark.reference is not None
        return Case(
            name=benchmark.name,
            node=item.nodeid,
            machine=self._fingerprint(),
            references=[OWN] if own else offered(benchmark.subject),
            workload=benchmark.workload,
            code=_code(item, benchmark),
            margin=self._settings.margin if benchmark.margin is None else benchmark.margin,
            max_s=benchmark.max_s,
            quantile=benchmark.quantile,
            memory=benchmark.memory,
            throughput=benchmark.throughput,
        )

    def _compare(
        self,
        case: Case,
        pools: Sequence[Pool],
        titles: Sequence[str],
        rules: Rules,
        cpu: int | None,
        delays: Mapping[str, float],
        progress: Callable[[int], None],
    ) -> Outcome:
        head, base = pools
        opened = pairs.between(
            head, base, (case.node, case.node), case.name, cpu=cpu, delays=delays
        )

        def renew() -> None:
            head.renew()
            base.renew()

        try:
            return gate.compare(case, opened, rules, renew, progress)
        except MissingTest as error:
            lacks, has = titles if str(error).startswith(titles[0]) else reversed(titles)
            if self._settings.tests_from == "base":  # its tests run on both sides
                return Outcome(
                    case.name, case.node, Status.ONE_SIDED, f"{titles[1]} has no such test"
                )
            return Outcome(
                case.name, case.node, Status.ONE_SIDED, f"only {has} has it, not {lacks}"
            )
        except BenchmarkError as error:
            # What BASE cannot run is said, and no fault of head's.
            if not str(error).startswith(titles[1]):
                raise
            return Outcome(case.name, case.node, Status.ONE_SIDED, str(error))

    def _pools_of(self, file: Path, fork: bool, base: str | None) -> tuple[Pool, ...]:
        """Return the pool of a file's tests, those of head and base where they are compared."""
        key = (file, fork, base)
        if key not in self._pools:
            scratch = self._folder()
            if base is None:
                wanted = [targets.target(self._config, file, self._settings, fork=fork)]
            else:
                wanted = self._sides(file, fork, base)
            # The memory of servers whose tests are done, or of another revision, is given back.
            done = [
                other
                for other in self._pools
                if other[0] != file or (base is not None and other[2] not in (None, base))
            ]
            for other in done:
                for pool in self._pools.pop(other):
                    pool.close()
            self._pools[key] = tuple(
                Pool(
                    one,
                    scratch,
                    servers=self._settings.servers,
                    at_once=self._settings.processes,
                )
                for one in wanted
            )
        return self._pools[key]

    def _sides(self, file: Path, fork: bool, base: str) -> list[Any]:
        return [
            targets.target(
                self._config,
                file,
                self._settings,
                title=tree.title,
                fork=fork,
                root=tree.folder,
                python=tree.python,
                import_roots=tree.import_roots,
            )
            for tree in self._prepared(base)
        ]

    def _prepared(self, base: str) -> Sequence[Any]:
        """Return head and ``base``, prepared at the first use; a failure is kept, not tried again.

        Raises:
            UsageError: if they cannot be prepared.
        """
        from perfsuite.compare.trees import prepare

        in_turn = self._settings.against is None
        if base not in self._trees:
            prepared = prepare(
                self._config.rootpath,
                base=base,
                head=self._settings.head,
                # A baseline is of its own tests' code, which is still that of today's, and of what lies beside them.
                tests_from="each" if in_turn else self._settings.tests_from,
                files=self._files,
                scratch=self._folder() / f"trees-{len(self._trees)}",
                install=not in_turn,
            )
            try:
                self._trees[base] = self._resources.enter_context(prepared)
            except UsageError as error:
                self._trees[base] = error
        found = self._trees[base]
        if isinstance(found, UsageError):
            raise found
        return found

    def _limit_s(self, item: pytest.Item) -> float:
        """Return the seconds that a benchmark may take: less where pytest-timeout would end the test."""
        limit_s, config = self._settings.time_limit_s, item.config
        if not config.pluginmanager.hasplugin("timeout"):
            return limit_s
        marker = item.get_closest_marker("timeout")
        found: Any
        if marker is not None:
            found = marker.args[0] if marker.args else marker.kwargs.get("timeout")
        else:
            found = getattr(config.option, "timeout", None) or config.getini("timeout")
        try:
            timeout_s = float(found)
        except (TypeError, ValueError):
            return limit_s
        return min(limit_s, _SHARE_OF_TIMEOUT * timeout_s) if timeout_s > 0 else limit_s

    def _baselines_of(self, item: pytest.Item) -> Baselines:
        path = self._settings.baselines or baselines_file(Path(item.path), self._config)
        if path not in self._baselines:
            self._baselines[path] = Baselines.read(path)
        return self._baselines[path]

    def _fingerprint(self) -> dict[str, Any]:
        """Return the part of the machine's description that must be equal for a baseline to count."""
        names = [*_FINGERPRINT, *(_OF_TORCH if "torch" in sys.modules else ())]
        machine = self.machine
        return {name: machine[name] for name in names}

    def _folder(self) -> Path:
        if self._scratch is None:
            scratch = Path(tempfile.mkdtemp(prefix="perfsuite-"))
            self._resources.callback(shutil.rmtree, scratch, ignore_errors=True)
            self._scratch = scratch
        return self._scratch


def settle(
    outcome: Outcome,
    base: Revision | UsageError,
    compare: Callable[[str, float], Outcome],
    margin: float | None,
) -> None:
    """Let a comparison with ``base``, the commit that was recorded, decide what the baseline left open.

    Both sides share the hour and the machine's speed, which is what the baseline could not tell from a change. The
    margin is ``margin``, or that of the baseline as far as it is not wide only because hours differ.
    """
    if margin is None:
        margin = DEFAULT_MARGIN
        if outcome.judgement is not None:
            margin = min(margin, outcome.judgement.margin)
    try:
        if not outcome.open:
            raise UsageError("others used the machine")
        if isinstance(base, UsageError):
            raise base
        outcome.settle(compare(base.commit, margin), base.short)
    except (UsageError, BenchmarkError) as error:
        outcome.reason += f"; not measured in turn with what was recorded: {error}"


def shared_processor(threads: int) -> int | None:
    """Return the processor on which everything runs in turn, None where one thread is not enough.

    The sides wait for each other, so that another processor gains them nothing, and it may be slowed by
    another neighbour. Measured, processes differ half as much from each other in this way.
    """
    return max(os.sched_getaffinity(0)) if threads == 1 else None


def _code(item: pytest.Item, benchmark: Benchmark) -> str:
    function = getattr(item, "function", None)
    if function is None:
        return ""
    used = [benchmark.reference, *_fixtures(item)]
    params = getattr(getattr(item, "callspec", None), "params", {})
    return code_hash(function, [one for one in used if one is not None], params=params)


def _fixtures(item: pytest.Item) -> list[object]:
    """Return the functions of the fixtures that the test asks for and that its own project defines."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return []
    root = item.config.rootpath
    found = []
    for name in sorted(info.name2fixturedefs):
        for definition in info.name2fixturedefs[name]:
            file = getattr(getattr(definition.func, "__code__", None), "co_filename", "")
            if Path(file).is_relative_to(root) and "site-packages" not in Path(file).parts:
                found.append(definition.func)
    return found
