"""``perfsuite compare BASE``: whether this work tree is slower than a revision of it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NoReturn

from perfsuite.compare import only_gated, revisions
from perfsuite.compare.interrupts import interrupted
from perfsuite.compare.result import BenchmarkResult, Comparison
from perfsuite.errors import RevisionError, UsageError
from perfsuite.files import check_writable, write_json, write_text

_PLUGIN = "perfsuite.plugin"
_CLEANUP_TIMEOUT_S = 60.0


def add_parser(commands: Any) -> None:
    """Declare ``compare`` and its options."""
    parser = commands.add_parser(
        "compare",
        usage="perfsuite compare BASE [options] [--] [pytest arguments]",
        help="measure this work tree against a git revision of it",
        description="Check BASE out beside this work tree, run the tests that use latency_gate in fresh "
        "processes of both, in alternation on this machine, and give a verdict per benchmark. Needs no stored "
        "baseline and no reference. What is no option of compare's goes to pytest: files, -k, -o perf_looks=3.",
        epilog="Exit status: 0 nothing became slower; 1 something did; 2 bad input, nothing could be compared, "
        "or a test that head cannot run; 3 undecided.",
    )
    # BASE is the first of them: as an argument of its own it would take a -- that follows it along.
    parser.add_argument(
        "arguments",
        metavar="BASE",
        nargs=argparse.REMAINDER,
        help="git revision: a branch, a tag, a commit; with ... at its end the point where HEAD left it",
    )
    _add_options(parser)
    parser.set_defaults(run=run, parser=parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--head", metavar="REV", help="compare this revision (default: the work tree as it is)"
    )
    parser.add_argument(
        "--tests-from",
        choices=("head", "base"),
        default="head",
        help="whose tests run on both sides: the work tree's, or BASE's (default: %(default)s)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="PERCENT",
        help="by which a benchmark may be slower, where it has no margin of its own (default: 5)",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write the result there")
    parser.add_argument("--markdown", type=Path, metavar="F", help="also write the table there")


class _OwnOptions(argparse.ArgumentParser):
    """Picks compare's own options from arguments of pytest's."""

    def __init__(self) -> None:
        # No abbreviations: --mark is not ours to guess at.
        super().__init__(prog="perfsuite compare", add_help=False, allow_abbrev=False)
        _add_options(self)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def pytest_arguments(arguments: argparse.Namespace) -> list[str]:
    """Return what is pytest's, after BASE and the options of compare's that stand among it went where they belong.

    Raises:
        UsageError: for an option of compare's that cannot be used, or without BASE.
    """
    rest: list[str] = arguments.arguments
    place = rest.index("--") if "--" in rest else len(rest)
    before, after = rest[:place], rest[place + 1 :]
    if {"-h", "--help"}.intersection(before):
        arguments.parser.print_help()
        raise SystemExit(0)
    own = _OwnOptions()
    if not before:
        own.error("BASE is missing")
    arguments.base = before[0]
    _, theirs = own.parse_known_args(before[1:], arguments)
    return [*theirs, *after]


def run(arguments: argparse.Namespace) -> int:
    """Compare, write the files, print the table, and return the exit status.

    Raises:
        UsageError: for an option, a revision or a repository that cannot be used.
        RevisionError: if nothing could be compared.
    """
    theirs = pytest_arguments(arguments)
    if arguments.margin is not None and not 0 < arguments.margin < math.inf:
        raise UsageError(f"--margin {arguments.margin}: must be a positive number of percent")
    for option in ("json", "markdown"):
        if getattr(arguments, option) is not None:
            check_writable(getattr(arguments, option), option=f"--{option}")
    root = revisions.find_root(Path.cwd())
    revisions.resolve(root, arguments.base)
    if arguments.head is not None:
        revisions.resolve(root, arguments.head, title="--head")
    with interrupted() as interrupts:
        try:
            comparison = _measure(arguments, theirs)
        except KeyboardInterrupt:
            if interrupts.number in (None, signal.SIGINT):
                raise
            return interrupts.status
    if arguments.json is not None:
        write_json(arguments.json, comparison.as_json())
    if arguments.markdown is not None:
        write_text(arguments.markdown, comparison.markdown(), option="--markdown ")
    print(comparison.text())
    return comparison.exit_status


def _measure(arguments: argparse.Namespace, theirs: Sequence[str]) -> Comparison:
    """Run pytest, and return what it compared."""
    with tempfile.TemporaryDirectory(prefix="perfsuite-") as scratch:
        report, failures, output = (
            Path(scratch, name) for name in ("report.json", "failures.json", "output")
        )
        command = [*_pytest(), *_options(arguments, report, failures), *theirs]
        with output.open("wb") as file:
            _run(command, file)
        told = output.read_text(encoding="utf-8", errors="replace")
        if not failures.exists():
            raise UsageError(_last_error(told))
        session = json.loads(failures.read_text(encoding="utf-8"))
        found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    outcomes = found.get("subjects", [])
    results = [BenchmarkResult.read(outcome) for outcome in outcomes]
    judged = {outcome["test"] for outcome in outcomes if outcome["failed"]}
    broken = {test: words for test, words in session["failures"].items() if test not in judged}
    head, base = found.get("titles") or ("head", "BASE")
    comparison = Comparison(head, base, results, broken, found.get("machine"), arguments.command)
    if not comparison.compared:
        raise RevisionError(_why_nothing(comparison, session["collected"]))
    return comparison


def interpreter() -> list[str]:
    """Return the start of a command that runs this Python, importing from the current folder if this process does."""
    unsafe = sys.path[:1] in ([""], [str(Path.cwd())])
    return [sys.executable, *([] if unsafe else ["-P"])]


def _pytest() -> list[str]:
    command = [*interpreter(), "-m", "pytest"]
    plugins = {one.value for one in metadata.entry_points(group="pytest11")}
    if _PLUGIN not in plugins:
        command += ["-p", _PLUGIN]
    return [*command, "-p", only_gated.__name__]


def _options(arguments: argparse.Namespace, report: Path, failures: Path) -> list[str]:
    options = ["--perf-against", arguments.base, "--perf-tests-from", arguments.tests_from]
    if arguments.head is not None:
        options += ["--perf-head", arguments.head]
    if arguments.margin is not None:
        options += ["--perf-margin", str(arguments.margin)]
    options += ["--perf-report", str(report), only_gated.OPTION, str(failures)]
    # Whatever the user's settings say: all of them, one after the other, however long each takes.
    options += ["--quiet", "--maxfail=0"]
    for module, option in (("xdist", "-n0"), ("pytest_timeout", "--timeout=0")):
        if importlib.util.find_spec(module) is not None:
            options.append(option)
    return options


def _run(command: Sequence[str], output: IO[bytes]) -> None:
    """Run pytest to its end; a signal that ends this process ends it first, through its cleanups."""
    # The summary of the step is the caller's to write, from --markdown.
    hidden = {"GITHUB_STEP_SUMMARY"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        env=environment,
        process_group=0,  # it gets one signal, from here
    ) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_CLEANUP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _last_error(output: str) -> str:
    """Return why pytest did not run."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match("(ERROR|INTERNALERROR|[a-z]+: error)", line)]
    found = (errors or lines)[-1:]
    return f"pytest: {found[0].removeprefix('ERROR: ')}" if found else "pytest did not run"


def _why_nothing(comparison: Comparison, collected: int) -> str:
    problems = [f"{result.name}: {result.problem}" for result in comparison.results]
    problems += [f"{test}: {words}" for test, words in comparison.broken.items()]
    reasons = {result.problem for result in comparison.results} | set(comparison.broken.values())
    if len(reasons) == 1:  # a revision that cannot be used fails every test alike
        return f"nothing could be compared: {reasons.pop()}"
    if not problems and not collected:
        return "nothing could be compared: no test that was collected uses latency_gate"
    return f"nothing could be compared: {'; '.join(problems) or 'no gate was reached'}"
