"""``perfsuite bisect GOOD BAD -- TEST``: which commit made a test slower."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from perfsuite.commands import JsonFile, application, command_line, number, option
from perfsuite.compare import revisions
from perfsuite.compare.bisect import Answer, Found, Step, search
from perfsuite.compare.command import interpreter
from perfsuite.compare.interrupts import interrupted
from perfsuite.compare.revisions import Commit
from perfsuite.errors import RevisionError
from perfsuite.files import check_outputs, write_json
from perfsuite.gate.outcome import Status
from perfsuite.units import percent

EXIT_NOT_SLOWER = 1
EXIT_RANGE = 3
UNKNOWN = "unknown"  # the verdict where there is none
_MORE = ("-o", "perf_processes=12")  # of a look, where a commit stayed undecided

Compare = Callable[
    [str, Sequence[str]], "Measured"
]  # a commit with GOOD, with more arguments for pytest

app = application()


@dataclass(frozen=True)
class Measured:
    """What a comparison of two commits says of a test."""

    verdict: str
    words: str  # the change, or why there is none


@app.command(
    "bisect",
    help="Compare GOOD with commits between it and BAD, along first parents, until the first slow one is found. "
    "The test is the work tree's, whatever commit is measured. Commits that cannot be built or run, or that stay "
    "undecided, are skipped. Arguments of pytest follow TEST, after --: perfsuite bisect v1 HEAD -- TEST -k parse.",
    epilog="Exit status: 0 found; 1 BAD is not slower than GOOD; 2 bad input, or a commit that cannot be compared; "
    "3 a range is left.",
)
def run(
    context: typer.Context,
    good_revision: Annotated[str, typer.Argument(metavar="GOOD", help="git revision that is fast")],
    bad_revision: Annotated[
        str,
        typer.Argument(metavar="BAD", help="git revision that is slow, and descends from GOOD"),
    ],
    test: Annotated[list[str], typer.Argument(metavar="TEST", help="test that uses latency_gate")],
    margin: Annotated[
        float | None,
        option("--margin", "PERCENT", "what counts as slower (default: 5)", number),
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Search, print each step and what was found, and return the exit status.

    Raises:
        UsageError: for an option, a revision or a repository that cannot be used.
        RevisionError: if GOOD and BAD themselves cannot be compared.
    """
    check_outputs({"--json": json_file})
    root = revisions.find_root(Path.cwd())
    good = revisions.resolve(root, good_revision, title="GOOD")
    bad = revisions.resolve(root, bad_revision, title="BAD")
    commits = revisions.first_parent_range(root, good.commit, bad.commit)
    options = [] if margin is None else ["--margin", str(margin)]

    def compare(commit: str, more: Sequence[str]) -> Measured:
        return compare_one(good.commit, commit, [*test, *more], options)

    with interrupted() as interrupts:
        try:
            whole = confirmed(bad.commit, compare)
            print(f"{bad} against {good}: {whole.verdict}: {whole.words}", flush=True)
            if whole.verdict != Status.REGRESSION:
                return _not_slower(whole, str(bad), str(good))
            found = _search(root, commits, compare)
        except KeyboardInterrupt:
            if interrupts.number is None:
                raise
            return interrupts.status
    told = [revisions.describe(root, commit) for commit in found.commits]
    if json_file is not None:
        content = _as_json(good.commit, bad.commit, found, told, command_line(context))
        write_json(json_file, content)
    print(_conclusion(told))
    return 0 if len(told) == 1 else EXIT_RANGE


def compare_one(
    good: str, candidate: str, test: Sequence[str], options: Sequence[str] = ()
) -> Measured:
    """Compare a commit with the good one by ``perfsuite compare`` in a process of its own.

    The verdict is the worst of the test's benchmarks, and "unknown" where there is none.
    """
    with tempfile.TemporaryDirectory(prefix="perfsuite-") as scratch:
        path = Path(scratch, "comparison.json")
        command = [*interpreter(), "-m", "perfsuite", "compare", good, "--head", candidate]
        command += ["--json", str(path), *options, "--", *test]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        ) as process:
            try:
                _, errors = process.communicate()
            except KeyboardInterrupt:
                process.terminate()  # it ends what it has started
                process.wait()
                raise
        if not path.exists():
            lines = [line for line in errors.splitlines() if line.startswith("perfsuite: ")]
            words = (
                lines[-1].removeprefix("perfsuite: ") if lines else f"status {process.returncode}"
            )
            return Measured(UNKNOWN, words)
        content = json.loads(path.read_text(encoding="utf-8"))
    return worst(content)


def worst(content: dict[str, Any]) -> Measured:
    """Return the worst verdict of a comparison's benchmarks."""
    order = [Status.REGRESSION, Status.INCONCLUSIVE, Status.PASS, Status.IMPROVED]
    judged = [one for one in content["benchmarks"] if one["verdict"] in order]
    if not judged or content["broken"]:
        told = [
            f"{one['name']}: {one['problem']}" for one in content["benchmarks"] if "problem" in one
        ]
        told += [f"{test}: {words}" for test, words in content["broken"].items()]
        return Measured(UNKNOWN, "; ".join(told) or "nothing was compared")
    found = min(judged, key=lambda one: order.index(Status(one["verdict"])))
    change = "" if found["change"] is None else percent(found["change"] - 1)
    return Measured(found["verdict"], change or found["reason"])


def confirmed(commit: str, compare: Compare) -> Measured:
    """Return what is known of a commit; an undecided one is measured once more, with more processes."""
    measured = compare(commit, ())
    return compare(commit, _MORE) if measured.verdict == Status.INCONCLUSIVE else measured


def _search(root: Path, commits: Sequence[str], compare: Compare) -> Found:
    words: dict[str, str] = {}

    def ask(commit: str) -> Answer:
        measured = confirmed(commit, compare)
        words[commit] = f"{measured.verdict}: {measured.words}"
        if measured.verdict == Status.REGRESSION:
            return Answer.SLOW
        decided = measured.verdict in (Status.PASS, Status.IMPROVED)
        return Answer.FAST if decided else Answer.UNKNOWN

    def tell(step: Step) -> None:
        commit = revisions.describe(root, step.commit)
        skipped = ", skipped" if step.answer is Answer.UNKNOWN else ""
        print(f"{commit}: {words[step.commit]}{skipped} (of {step.left} left)", flush=True)

    return search(commits, ask, tell=tell)


def _not_slower(whole: Measured, bad: str, good: str) -> int:
    if whole.verdict == UNKNOWN:
        raise RevisionError(f"{bad} and {good} cannot be compared: {whole.words}")
    if whole.verdict == Status.INCONCLUSIVE:
        raise RevisionError(f"whether {bad} is slower than {good} stays undecided: {whole.words}")
    print("BAD is not slower than GOOD: there is nothing to find")
    return EXIT_NOT_SLOWER


def _conclusion(commits: Sequence[Commit]) -> str:
    if len(commits) == 1:
        return f"the first slow commit: {commits[0]}"
    lines = [f"  {commit}" for commit in commits]
    return "\n".join([f"the first slow commit is one of {len(commits)}:", *lines])


def _as_json(
    good: str, bad: str, found: Found, commits: Sequence[Commit], command: str
) -> dict[str, Any]:
    return {
        "good": good,
        "bad": bad,
        "command": command,
        "commits": [
            {"commit": one.commit, "subject": one.subject, "date": one.date} for one in commits
        ],
        "steps": [
            {"commit": step.commit, "answer": step.answer.value, "left": step.left}
            for step in found.steps
        ],
    }
