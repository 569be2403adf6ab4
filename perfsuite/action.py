"""The steps of ``action.yml``: install the gate, measure, comment on the pull request.

Run as a file, by the interpreter that measures: ``python -I action.py install | measure | comment``. The first step
runs before perfsuite is installed, so that this imports the standard library alone. What the user asked for comes
in environment variables ``INPUT_NAME``, what the runner knows in ``GITHUB_NAME``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

MODES = ("auto", "compare", "gate")
OLDEST_PYTHON = (3, 11)
MOST_COMMENT = 60_000  # characters; GitHub takes 65,536

# By exit status. In the gate's mode a failed run may be more than a regression: see _outcome.
_COMPARE_OUTCOMES = {0: "pass", 1: "regression", 3: "undecided"}
_GATE_OUTCOMES = {0: "pass", 1: "failed", 10: "not-judged"}
_GREEN = frozenset({"pass", "improved", "recorded"})
_TIMEOUT_S = 30.0

_FIND = """
query($owner: String!, $name: String!, $number: Int!) {
  viewer { login }
  repository(owner: $owner, name: $name) {
    pullRequest(number: $number) {
      id
      comments(last: 100) { nodes { id body author { login } } }
    }
  }
}
"""
_ADD = """
mutation($id: ID!, $body: String!) {
  addComment(input: {subjectId: $id, body: $body}) { clientMutationId }
}
"""
_UPDATE = """
mutation($id: ID!, $body: String!) {
  updateIssueComment(input: {id: $id, body: $body}) { clientMutationId }
}
"""

Environment = Mapping[str, str]
Run = Callable[[Sequence[str], Environment], int]
Ask = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


class InputError(Exception):
    """An input, or what the workflow did before, that cannot be used."""


def main(arguments: Sequence[str], environment: Environment | None = None) -> int:
    """Do one step, and return its exit status."""
    environment = dict(os.environ if environment is None else environment)
    steps = {"install": install, "measure": measure, "comment": comment}
    try:
        return steps[arguments[0]](environment)
    except InputError as error:
        print(f"::error title=latency gate::{error}", flush=True)
        return 2


# Installing


def install(environment: Environment) -> int:
    """Install the gate into this interpreter's environment; what is there and good enough stays."""
    if sys.version_info < OLDEST_PYTHON:
        raise InputError(f"{sys.executable} is Python {sys.version.split()[0]}: 3.11 is the oldest")
    folder = Path(_needed(environment, "GITHUB_ACTION_PATH"), "perfsuite")
    return _run([*installer(), str(folder)], environment)


def installer() -> list[str]:
    """Return the start of the command that installs into this interpreter's environment.

    Raises:
        InputError: if the environment has no pip, and the machine no uv.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--quiet"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise InputError(
        f"{sys.executable} has no pip, and there is no uv on PATH: install one of them"
    )


# Measuring


def measure(environment: Environment, run: Run | None = None) -> int:
    """Gate or compare, and tell the following steps how it came out."""
    mode = chosen_mode(environment)
    report, markdown = (
        _one_line(environment, name, default)
        for name, default in (("report", "latency-gate.json"), ("markdown", "latency-gate.md"))
    )
    for file in (report, markdown):
        Path(file).unlink(missing_ok=True)  # an earlier run's
    command = (_compare if mode == "compare" else _gate)(environment, report, markdown)
    print(shlex.join(command), flush=True)
    # The plugin writes its table to the step's summary: here into a file, for the comment as well.
    inner = {**environment, "GITHUB_STEP_SUMMARY": str(Path(markdown).absolute())}
    status = (run or _run)(command, inner)
    outcome = _outcome(mode, status, Path(report))
    table = Path(markdown)
    if table.exists():
        _append(environment, "GITHUB_STEP_SUMMARY", table.read_text(encoding="utf-8"))
    else:
        markdown = ""
    told = {"outcome": outcome, "mode": mode, "report": report, "markdown": markdown}
    _append(environment, "GITHUB_OUTPUT", "".join(f"{key}={told[key]}\n" for key in told))
    if mode == "compare" and outcome == "undecided":
        # A machine that is too noisy to tell is no reason to stop a merge.
        print("::warning title=latency gate::undecided: this machine was too noisy to tell")
        return 0
    return status


def chosen_mode(environment: Environment) -> str:
    """Return "compare" or "gate": what was asked for, else what suits the runner.

    Hosted runners are another machine each time, so that no baseline is theirs; but two revisions can
    be compared on them.

    Raises:
        InputError: for another word.
    """
    mode = _input(environment, "mode") or "auto"
    if mode not in MODES:
        raise InputError(f"mode: {mode}: must be one of {', '.join(MODES)}")
    if mode != "auto":
        return mode
    hosted = environment.get("RUNNER_ENVIRONMENT") == "github-hosted"
    return "compare" if hosted and _target(environment) is not None else "gate"


def split(environment: Environment, name: str) -> list[str]:
    """Return the words of an input, over as many lines as there are, quoted as in a shell.

    Raises:
        InputError: if a quotation has no end.
    """
    try:
        return shlex.split(_input(environment, name))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def base(environment: Environment) -> str:
    """Return the revision to compare with.

    Raises:
        InputError: if there is none, or its commits have not been checked out.
    """
    given = _input(environment, "base")
    if given:
        return given
    target = _target(environment)
    if target is None:
        raise InputError("base: is needed where the event is no pull request")
    command = ["git", "merge-base", target, "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise InputError(
            f"the merge base of {target[:12]} and HEAD is not in this clone: give actions/checkout "
            "fetch-depth: 0"
        )
    return found.stdout.strip()


def _compare(environment: Environment, report: str, markdown: str) -> list[str]:
    command = [sys.executable, "-m", "perfsuite", "compare", base(environment)]
    command += ["--json", report, "--markdown", markdown, "--"]
    return [*command, *split(environment, "tests"), *split(environment, "arguments")]


def _gate(environment: Environment, report: str, markdown: str) -> list[str]:
    del markdown  # the plugin's summary
    command = [sys.executable, "-m", "pytest", *split(environment, "tests")]
    command += ["--perf-report", report]
    if _flag(environment, "strict", default=True):
        command.append("--perf-strict")
    if importlib.util.find_spec("xdist") is not None:
        command.append("-n0")  # whatever the settings say: beside each other nothing is measured
    return [*command, *split(environment, "arguments")]


def _outcome(mode: str, status: int, report: Path) -> str:
    outcome = (_COMPARE_OUTCOMES if mode == "compare" else _GATE_OUTCOMES).get(status, "error")
    if mode == "compare" or outcome not in ("pass", "failed") or not report.exists():
        return outcome
    subjects = json.loads(report.read_text(encoding="utf-8"))["subjects"]
    verdicts = {subject["verdict"] for subject in subjects}
    if outcome == "failed":
        return "regression" if "regression" in verdicts else outcome
    return outcome if verdicts <= _GREEN else "undecided"


# Commenting


def comment(environment: Environment, ask: Ask | None = None) -> int:
    """Show the table at the pull request: edit the comment that an earlier run made, or add one.

    A token that may not, as on pull requests from forks, is a warning.
    """
    number = _pull_request(environment)
    table = Path(_needed(environment, "MARKDOWN"))
    if number is None or not table.exists():
        return 0
    marker = f"<!-- latency gate: {environment.get('GITHUB_JOB', '')} -->"
    text = table.read_text(encoding="utf-8")
    if len(text) > MOST_COMMENT:
        text = text[:MOST_COMMENT].rpartition("\n")[0] + "\n\n(cut)\n"
    owner, _, name = _needed(environment, "GITHUB_REPOSITORY").partition("/")
    ask = ask or _asker(environment)
    try:
        found = ask(_FIND, {"owner": owner, "name": name, "number": number})
        body, own = f"{marker}\n{text}", _own_comment(found, marker)
        if own is None:
            ask(_ADD, {"id": found["repository"]["pullRequest"]["id"], "body": body})
        else:
            ask(_UPDATE, {"id": own, "body": body})
    except (OSError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        print(f"::warning title=latency gate::the pull request got no comment: {reason}")
    return 0


def _own_comment(found: Mapping[str, Any], marker: str) -> str | None:
    """Return the last comment that this token's owner made for this job."""
    viewer = str(found["viewer"]["login"]).removesuffix("[bot]")
    comments = found["repository"]["pullRequest"]["comments"]["nodes"]
    own = [
        str(one["id"])
        for one in comments
        if one["author"] is not None  # whoever deleted their account
        and str(one["author"]["login"]).removesuffix("[bot]") == viewer
        and one["body"].startswith(marker)
    ]
    return own[-1] if own else None


def _asker(environment: Environment) -> Ask:
    url = environment.get("GITHUB_GRAPHQL_URL", "https://api.github.com/graphql")
    if not url.startswith("https://"):
        raise InputError(f"GITHUB_GRAPHQL_URL: {url}: must be https")
    token = _needed(environment, "TOKEN")

    def ask(query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - https, see above
            url,
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            answer = json.load(response)
        if answer.get("errors"):
            raise ValueError(answer["errors"][0]["message"])
        data: Mapping[str, Any] = answer["data"]
        return data

    return ask


# What the workflow says


def _input(environment: Environment, name: str) -> str:
    return environment.get(f"INPUT_{name.upper()}", "").strip()


def _one_line(environment: Environment, name: str, default: str) -> str:
    text = _input(environment, name) or default
    if not text.isprintable():
        raise InputError(f"{name}: must be a file's name in one line")
    return text


def _flag(environment: Environment, name: str, *, default: bool) -> bool:
    text = _input(environment, name).lower() or str(default).lower()
    if text not in ("true", "false"):
        raise InputError(f"{name}: {text}: must be true or false")
    return text == "true"


def _needed(environment: Environment, name: str) -> str:
    if not environment.get(name):
        raise InputError(f"{name}: is not set")
    return environment[name]


def _event(environment: Environment) -> Mapping[str, Any]:
    path = environment.get("GITHUB_EVENT_PATH")
    if not path or not Path(path).is_file():
        return {}
    content: Mapping[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return content


def _target(environment: Environment) -> str | None:
    """Return the commit that a pull request, or a merge queue's group, is to be merged into."""
    event = _event(environment)
    if "pull_request" in event:
        return str(event["pull_request"]["base"]["sha"])
    if "merge_group" in event:
        return str(event["merge_group"]["base_sha"])
    return None


def _pull_request(environment: Environment) -> int | None:
    event = _event(environment)
    return int(event["pull_request"]["number"]) if "pull_request" in event else None


def _append(environment: Environment, name: str, text: str) -> None:
    if environment.get(name):
        with Path(environment[name]).open("a", encoding="utf-8") as file:
            file.write(text)


def _run(command: Sequence[str], environment: Environment) -> int:
    return subprocess.run(command, env=dict(environment), check=False).returncode


def _usage() -> NoReturn:
    raise SystemExit("usage: python -I action.py install | measure | comment")


if __name__ == "__main__":
    if sys.argv[1:] not in (["install"], ["measure"], ["comment"]):
        _usage()
    sys.exit(main(sys.argv[1:]))
