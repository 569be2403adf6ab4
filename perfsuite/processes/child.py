"""The measured side: a pytest session that stops at a gate, and serves what is gated there.

A server collects one test file and waits. For each sample it forks a process (or is that process itself, where
forking is off), which runs one test up to the gate that was asked for. What could change the
measurement is switched off there, and named in ``notes``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from perfsuite import latency_gate, settings
from perfsuite.processes.benchmark import TOTAL, Benchmark, Runner
from perfsuite.processes.protocol import Ended, Lines
from perfsuite.processes.references import OWN, REFERENCES

SUBJECT = "subject"
_PR_SET_PDEATHSIG = 1
_MOST_LOOPS = 1 << 24
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MONITORING_TOOLS = 6
_ANSWERED = 86  # exit status of a process that has answered to the end; a subject may exit with any
# Pytest wants to rewrite the asserts of an installed plugin's package, and says so where it cannot.
_IMPORTED_ALREADY = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"

# Options that say which tests run, in what order, how often, where reports go: they are the measuring session's.
_NOT_PASSED_ON = frozenset(
    (
        "file_or_dir", "keyword", "markexpr", "deselect", "ignore", "ignore_glob", "maxfail", "collectonly",
        "lf", "failedfirst", "newfirst", "stepwise", "stepwise_skip", "stepwise_reset", "usepdb", "usepdb_cls",
        "trace", "xmlpath", "log_file", "basetemp", "rootdir", "inifilename", "override_ini", "plugins",
        "pastebin", "durations", "verbose", "showfixtures", "show_fixtures_per_test", "cacheclear",
        "cacheshow", "help", "version", "setuponly", "setupshow", "setupplan", "numprocesses",
        "maxprocesses", "dist", "tx", "looponfail", "reruns", "timeout", "session_timeout",
        "randomly_seed", "randomly_reorganize", "benchmark_json", "benchmark_save", "benchmark_autosave",
        "benchmark_compare", "continue_on_collection_errors",
    )
)  # fmt: skip
_SWITCHED_OFF = {
    "lf": False, "failedfirst": False, "newfirst": False, "stepwise": False, "maxfail": 0,
    "collectonly": False, "usepdb": False, "trace": False, "setuponly": False, "setupplan": False,
    "reruns": 0, "timeout": 0, "session_timeout": 0, "randomly_reorganize": False, "randomly_seed": 0,
    "keyword": "", "markexpr": "", "deselect": None, "xmlpath": None, "log_file": None, "numprocesses": None,
    "tx": [], "dist": "no", "benchmark_json": None, "benchmark_save": None, "benchmark_autosave": False,
}  # fmt: skip


class _Served(BaseException):
    """Ends a test that has been served, through all its cleanups."""


class Child:
    """The plugin of a measured session."""

    def __init__(self, lines: Lines, start: Mapping[str, Any]) -> None:
        self._lines, self._start = lines, start
        self._items: dict[str, pytest.Item] = {}
        self._problems: list[str] = []
        self._wanted: Mapping[str, Any] = {}
        self._notes: list[str] = []
        self._served = False

    @property
    def problem(self) -> str:
        """What has failed last; an empty text where nothing has."""
        return self._problems[-1] if self._problems else ""

    # What the session is: the user's own, less what would change the measurement.

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        """Declare the gate's options and settings, which the user's configuration may name."""
        settings.declare(parser)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> Iterator[None]:
        """Take over the measuring session's options before anybody acts on them."""
        for name, value in self._start["options"].items():
            if name not in _NOT_PASSED_ON and hasattr(config.option, name):
                setattr(config.option, name, value)
        for name, value in _SWITCHED_OFF.items():
            if hasattr(config.option, name):
                setattr(config.option, name, value)
        config.stash[latency_gate.SESSION] = self
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        """Know all tests, whatever others deselect."""
        self._items = {item.nodeid: item for item in items}
        return (yield)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why a file cannot be collected."""
        if report.failed:
            self._problems.append(report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep why the gate was not reached."""
        if self._served and report.when != "teardown":  # what ended the test is no failure
            return
        if report.failed:
            self._problems.append(report.longreprtext)
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
            self._problems.append(reason)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self) -> bool:
        """Set no timer: deadlines are the measuring session's."""
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> NoReturn:
        """Serve until the measuring session ends."""
        try:
            if self._problems:
                self._lines.send({"error": self._problems[-1]})
                os._exit(1)
            self._lines.send({"ready": list(self._items)})
            self._serve(session)
        except Ended:
            os._exit(0)
        except BaseException:  # noqa: BLE001 - this process ends here, whatever it was
            traceback.print_exc()
            os._exit(1)

    def _serve(self, session: pytest.Session) -> NoReturn:
        if self._start["fork"]:
            threads = len(list(Path("/proc/self/task").iterdir()))
            if threads > 1:
                self._notes = [
                    f"{threads - 1} threads of the test file's imports are missing (fork=False has them)"
                ]
            # What is there by now stays: no child is to walk through it, and copy its pages by that.
            gc.collect()
            gc.freeze()
        while True:
            request = self._lines.receive()
            if "open" not in request:  # for a process that failed
                self._lines.send({"error": "nothing is open"})
                continue
            self._wanted = request["open"]
            item = self._items.get(self._wanted["node"])
            if item is None:
                self._lines.send({"error": "there is no such test", "kind": "missing"})
                continue
            if not self._start["fork"]:
                os._exit(self._run(item))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of threads: it is said in the notes
                child = os.fork()
            if child == 0:
                end_with_parent()
                os._exit(self._run(item))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status < 0:
                self._lines.send(
                    {"error": f"the measured process was ended by {signal.Signals(-status).name}"}
                )
            elif status != _ANSWERED:
                self._lines.send(
                    {"error": f"the measured process ended by itself, with status {status}"}
                )

    def _run(self, item: pytest.Item) -> int:
        """Run the test in this process, and return the process's exit status: ``_ANSWERED``, unless it failed to."""
        try:
            if self._wanted["cpu"] is not None:
                os.sched_setaffinity(0, {self._wanted["cpu"]})
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self._problems:
                self._lines.send({"error": self._problems[0], "kind": "test"})
            elif not self._served:
                name = self._wanted["benchmark"]
                self._lines.send(
                    {"error": f"the test ended before its gate {name!r}", "kind": "test"}
                )
            else:
                self._lines.send({"closed": {}})
            _flush()
        except Ended:  # of whoever measures, or of this process's own end: that is to be told
            return 1
        except BaseException:  # noqa: BLE001 - this process ends here, whatever it was
            traceback.print_exc()
            _flush()
            return 1
        return _ANSWERED

    # The session as the fixture sees it.

    def delays(self, name: str) -> Mapping[str, float]:
        """Return the factors of the phases of ``name``; see ``LatencyGate.delays``."""
        wanted = self._wanted
        if wanted.get("benchmark") != name:
            return {}
        return {phase: factor for phase, factor in wanted["delays"].items() if phase != TOTAL}

    def gate(self, request: pytest.FixtureRequest, benchmark: Benchmark) -> object:
        """Serve ``benchmark`` if it is the one that was asked for, and end the test then."""
        if benchmark.name != self._wanted["benchmark"]:
            return None
        _Serving(benchmark, self._wanted, self._lines).serve(self._notes)
        self._served = True
        raise _Served


class _Serving:
    """One benchmark that is being measured."""

    def __init__(self, benchmark: Benchmark, wanted: Mapping[str, Any], lines: Lines) -> None:
        self._benchmark, self._lines = benchmark, lines
        self._runners = dict(self._make_runners(wanted))

    def _make_runners(self, wanted: Mapping[str, Any]) -> Iterator[tuple[str, Runner]]:
        benchmark = self._benchmark
        shared: dict[str, Any] = {"setup": benchmark.setup, "args": benchmark.args}
        delay = wanted["delays"].get(TOTAL, 1.0) - 1
        yield SUBJECT, Runner(benchmark.subject, **shared, phases=benchmark.phases, delay=delay)
        for name in wanted["references"]:
            if name == OWN and benchmark.reference is not None:
                yield name, Runner(benchmark.reference, **shared)
            elif name in REFERENCES:
                yield name, Runner(REFERENCES[name])

    def serve(self, notes: Sequence[str]) -> None:
        """Answer until the measuring side closes. ``notes`` are told with those of this process."""
        notes = [*notes, *_switch_off_tracers()]
        _forget_peak()
        for runner in self._runners.values():
            runner.first()
        gc.collect()
        gc.freeze()
        try:
            self._lines.send({"opened": {"notes": notes}})
            while "close" not in (request := self._lines.receive()):
                self._lines.send(self._answer(request))
            for runner in self._runners.values():
                runner.close()
        finally:
            gc.unfreeze()

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if "calibrate" in request:
            asked = request["calibrate"]
            return self._calibrated(self._runners[asked["role"]], float(asked["run_s"]))
        asked = request["measure"]
        runner, loops = self._runners[asked["role"]], int(asked["loops"])
        gc.collect()  # what an earlier run has left is not to be this one's to collect
        for _ in range(int(asked["discarded"])):
            runner.run(loops)
        seconds, phases = [], []
        began, waited = time.perf_counter(), _waited_s()
        for _ in range(int(asked["runs"])):
            each, by_phase = runner.run(loops)
            seconds.append(each)
            phases.append(by_phase)
        waited = (_waited_s() - waited) / max(time.perf_counter() - began, 1e-9)
        children = _descendants(os.getpid())
        return {
            "seconds": seconds,
            "phases": phases if any(phases) else [],
            # With children of its own, which may have run meanwhile, the kernel's count says nothing of others.
            "waited": 0.0 if children else waited,
            "cpu_s": _cpu_s(children),
            "peak_bytes": _peak_bytes() if self._benchmark.memory else None,
        }

    @staticmethod
    def _calibrated(runner: Runner, run_s: float) -> dict[str, Any]:
        loops = 1
        while True:
            began = time.perf_counter()
            seconds, _ = runner.run(loops)
            whole_s = time.perf_counter() - began  # with what is set up before calls
            if seconds * loops >= run_s or loops >= _MOST_LOOPS:
                return {"loops": loops, "seconds": whole_s / loops}
            # Twice as many at least, ten times as many at most: a first run may have been slow by chance.
            wanted = run_s / max(seconds, 1e-9)
            loops = int(min(max(wanted, 2 * loops), 10 * loops)) + 1


def _switch_off_tracers() -> list[str]:
    """Switch off what watches every line or call of this process, and name it."""
    found = []
    for get, set_, title in (
        (sys.gettrace, sys.settrace, "tracer"),
        (sys.getprofile, sys.setprofile, "profiler"),
        (threading.gettrace, threading.settrace, "threads' tracer"),
        (threading.getprofile, threading.setprofile, "threads' profiler"),
    ):
        if get() is not None:
            set_(None)
            found.append(f"a {title} was switched off")
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    if monitoring is not None:
        for tool in range(_MONITORING_TOOLS):
            name = monitoring.get_tool(tool)
            if name is not None:
                monitoring.set_events(tool, 0)
                monitoring.free_tool_id(tool)
                found.append(f"the monitoring tool {name!r} was switched off")
    return found


def _cpu_s(children: Sequence[int]) -> float:
    """Return the processor seconds of this process, of what it has waited for, and of its ``children``."""
    own, waited = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    seconds = own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime
    return seconds + sum(map(_process_s, children))


def _waited_s() -> float:
    """Return the seconds that this thread was ready to run while others had its processor."""
    with suppress(OSError, ValueError, IndexError):
        # Nanoseconds on a processor, and waiting for one (Documentation/scheduler/sched-stats).
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    return 0.0


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = [int(text) for text in (task / "children").read_text().split()]
            found += children
            for child in children:
                found += _descendants(child)
    return found


def _process_s(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (
        sum(map(int, fields[11:15])) / _TICKS_PER_S
    )  # its own, and its children's that it waited for


def _forget_peak() -> None:
    """Make the kernel's record of this process's peak of memory start anew."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int | None:
    with suppress(OSError, ValueError):
        for line in (
            Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n")
        ):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended just before
        os._exit(1)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def serve(lines: Lines, run: Callable[..., int] = pytest.main) -> int:
    """Be a server: collect what the first message names, then serve."""
    start = lines.receive()["start"]
    sys.path[:0] = [entry for entry in start["path"] if entry not in sys.path]
    sys.argv = ["pytest", *start["arguments"]]
    child = Child(lines, start)
    # Blocked: this session's fixture and options are those above, of whichever revision the tree is.
    own = ["-p", "no:perfsuite", "-p", "no:perfsuite.plugin", "-W", _IMPORTED_ALREADY]
    status = run([*start["arguments"], *own], plugins=[child, latency_gate])
    problem = child.problem or f"pytest ended with status {int(status)}"
    with suppress(Ended):
        lines.send({"error": problem})
    lines.close()
    return 1
