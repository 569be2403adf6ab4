"""``perfsuite compare BASE``: whether this work tree is slower than a revision of it."""

from __future__ import annotations

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
from typing import IO, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from perfsuite.commands import JsonFile, application, command_line, number, option
from perfsuite.compare import only_gated, revisions
from perfsuite.compare.interrupts import interrupted
from perfsuite.compare.result import Comparison, problem
from perfsuite.errors import RevisionError, UsageError
from perfsuite.files import check_outputs, write_json, write_text
from perfsuite.gate.reported import Report, read_report
from perfsuite.render import terminal
from perfsuite.render.markdown import markdown as as_markdown

_PLUGIN = "perfsuite.plugin"
_CLEANUP_TIMEOUT_S = 60.0

app = application()


class _Compare(TyperCommand):
    """Takes -h for help where it stands alone: as an option it would be found in pytest's -khash, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        place = args.index("--") if "--" in args else len(args)
        own = ["--help" if one == "-h" else one for one in args[:place]]
        return super().parse_args(ctx, [*own, *args[place:]])


@app.command(
    "compare",
    cls=_Compare,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    help="Check BASE out beside this work tree, run the tests that use latency_gate in fresh processes of both, in "
    "alternation on this machine, and give a verdict per benchmark. Needs no stored baseline and no reference. What "
    "is no option of compare's, and all that follows --, goes to pytest: files, -k, -o perf_looks=3.",
    epilog="Exit status: 0 nothing became slower; 1 something did; 2 bad input, nothing could be compared, or a "
    "test that head cannot run; 3 undecided.",
)
def run(
    context: typer.Context,
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="git revision: a branch, a tag, a commit; with ... at its end the point where HEAD left it",
        ),
    ],
    theirs: Annotated[
        list[str] | None, typer.Argument(metavar="PYTEST_ARGUMENTS", help="what is pytest's")
    ] = None,
    head: Annotated[
        str | None,
        option("--head", "REV", "compare this revision (default: the work tree as it is)"),
    ] = None,
    tests_from: Annotated[
        Literal["head", "base"],
        typer.Option(
            "--tests-from", help="whose tests run on both sides: the work tree's, or BASE's"
        ),
    ] = "head",
    margin: Annotated[
        float | None,
        option(
            "--margin",
            "PERCENT",
            "by which a benchmark may be slower, where it has no margin of its own (default: 5)",
            number,
        ),
    ] = None,
    json_file: JsonFile = None,
    markdown: Annotated[
        Path | None, option("--markdown", "FILE", "also write the table there")
    ] = None,
) -> int:
    """Compare, write the files, print the table, and return the exit status.

    Raises:
        UsageError: for an option, a revision or a repository that cannot be used.
        RevisionError: if nothing could be compared.
    """
    if margin is not None and not 0 < margin < math.inf:
        raise UsageError(f"--margin {margin}: must be a positive number of percent")
    check_outputs({"--json": json_file, "--markdown": markdown})
    root = revisions.find_root(Path.cwd())
    revisions.resolve(root, base)
    if head is not None:
        revisions.resolve(root, head, title="--head")
    options = ["--perf-against", base, "--perf-tests-from", tests_from]
    if head is not None:
        options += ["--perf-head", head]
    if margin is not None:
        options += ["--perf-margin", str(margin)]
    with interrupted() as interrupts:
        try:
            comparison = _measure(options, theirs or [], command_line(context))
        except KeyboardInterrupt:
            if interrupts.number in (None, signal.SIGINT):
                raise
            return interrupts.status
    if json_file is not None:
        write_json(json_file, comparison.as_json())
    if markdown is not None:
        write_text(markdown, as_markdown(comparison.blocks()), option="--markdown ")
    terminal.show(comparison.blocks(), width=None)
    return comparison.exit_status


def _measure(options: Sequence[str], theirs: Sequence[str], line: str) -> Comparison:
    """Run pytest, and return what it compared."""
    with tempfile.TemporaryDirectory(prefix="perfsuite-") as scratch:
        report, failures, output = (
            Path(scratch, name) for name in ("report.json", "failures.json", "output")
        )
        command = [*_pytest(), *options, "--perf-report", str(report)]
        command += [only_gated.OPTION, str(failures), *_whatever_the_settings_say(), *theirs]
        with output.open("wb") as file:
            _run(command, file)
        told = output.read_text(encoding="utf-8", errors="replace")
        if not failures.exists():
            raise UsageError(_last_error(told))
        session = json.loads(failures.read_text(encoding="utf-8"))
        found = read_report(report) if report.exists() else Report(subjects=())
    judged = {subject.test for subject in found.subjects if subject.failed}
    broken = {test: words for test, words in session["failures"].items() if test not in judged}
    head, base = found.titles or ("head", "BASE")
    comparison = Comparison(head, base, found.subjects, broken, found.machine, line)
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


def _whatever_the_settings_say() -> list[str]:
    """Return options by which all tests run, one after the other, however long each takes."""
    options = ["--quiet", "--maxfail=0"]
    for module, needed in (("xdist", "-n0"), ("pytest_timeout", "--timeout=0")):
        if importlib.util.find_spec(module) is not None:
            options.append(needed)
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
    problems = [f"{result.name}: {problem(result)}" for result in comparison.results]
    problems += [f"{test}: {words}" for test, words in comparison.broken.items()]
    reasons = set(map(problem, comparison.results)) | set(comparison.broken.values())
    if len(reasons) == 1:  # a revision that cannot be used fails every test alike
        return f"nothing could be compared: {reasons.pop()}"
    if not problems and not collected:
        return "nothing could be compared: no test that was collected uses latency_gate"
    return f"nothing could be compared: {'; '.join(problems) or 'no gate was reached'}"
