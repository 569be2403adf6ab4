from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from perfsuite.__main__ import main
from perfsuite.compare import bisect_command
from perfsuite.compare.bisect_command import Measured, worst

Git = Callable[..., str]
MakeRepository = Callable[..., Path]


class Measurements:
    """Stands for comparisons: a commit's verdict by its subject, the second where more was asked for."""

    def __init__(self, root: Path, git: Git) -> None:
        self.verdicts: dict[str, tuple[str, ...]] = {}
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self._root, self._git = root, git

    def __call__(
        self, good: str, candidate: str, test: Sequence[str], options: Sequence[str] = ()
    ) -> Measured:
        subject = self._git(self._root, "log", "-1", "--format=%s", candidate)
        self.asked.append((subject, (*options, *test)))
        verdicts = self.verdicts.get(subject, ("pass",))
        more = "perf_processes=12" in test
        return Measured(verdicts[-1] if more else verdicts[0], "+0.1%")


@pytest.fixture
def measurements(
    repository: MakeRepository, git: Git, monkeypatch: pytest.MonkeyPatch
) -> Measurements:
    """A history of ten commits, "commit 0" to "commit 9"; the last two are slow."""
    root = repository(*[{"file": str(number)} for number in range(10)])
    found = Measurements(root, git)
    found.verdicts = {"commit 8": ("regression",), "commit 9": ("regression",)}
    monkeypatch.setattr(bisect_command, "compare_one", found)
    monkeypatch.chdir(root)
    return found


def test_the_first_slow_commit_is_printed_with_each_step(
    measurements: Measurements, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bisect.json"
    options = ["--margin", "10", "--json", str(path)]
    assert (
        main(["bisect", "main~9", "main", *options, "--", "tests/test_it.py", "-k", "a or b"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("main (")
    assert "against main~9 (" in lines[0]
    assert "regression" in lines[0]
    assert " commit 8 (" in lines[-1]
    assert lines[-1].startswith("the first slow commit: ")
    assert {asked for _, asked in measurements.asked} == {
        ("--margin", "10.0", "tests/test_it.py", "-k", "a or b")
    }
    found = json.loads(path.read_text())
    assert [commit["subject"] for commit in found["commits"]] == ["commit 8"]
    assert len(found["steps"]) == len(lines) - 2 <= 4
    assert {"commit", "answer", "left"} == set(found["steps"][0])


def test_undecided_commits_are_measured_again_and_then_skipped(
    measurements: Measurements, capsys: pytest.CaptureFixture[str]
) -> None:
    measurements.verdicts |= {
        "commit 5": ("inconclusive", "pass"),
        "commit 7": ("inconclusive", "inconclusive"),
        "commit 6": ("unknown",),
    }
    assert main(["bisect", "main~9", "main", "--", "tests/test_it.py"]) == 3
    output = capsys.readouterr().out
    assert "the first slow commit is one of 3:" in output
    assert [f"commit {number} (" in output.rpartition("one of")[2] for number in (5, 6, 7, 8, 9)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert output.count(", skipped") == 2


@pytest.mark.parametrize(
    ("verdict", "status", "words"),
    [
        ("pass", 1, "BAD is not slower than GOOD"),
        ("unknown", 2, "cannot be compared"),
        ("inconclusive", 2, "stays undecided"),
    ],
)
def test_what_is_not_slower_needs_no_search(
    measurements: Measurements,
    capsys: pytest.CaptureFixture[str],
    verdict: str,
    status: int,
    words: str,
) -> None:
    measurements.verdicts["commit 9"] = (verdict,)
    assert main(["bisect", "main~9", "main", "--", "tests/test_it.py"]) == status
    captured = capsys.readouterr()
    assert words in captured.out + captured.err
    assert {subject for subject, _ in measurements.asked} == {"commit 9"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("nothing main -- test", "GOOD 'nothing': no such revision"),
        ("main nothing -- test", "BAD 'nothing': no such revision"),
        ("main main~1 -- test", "does not descend"),
        ("main~1 main", "TEST"),
        ("main~1 main --json /no/such/folder/f -- test", "/no/such/folder/f"),
    ],
)
def test_bad_input_gets_one_line(
    measurements: Measurements,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    problem: str,
) -> None:
    assert main(["bisect", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not measurements.asked


def judged(verdict: str, change: float | None = 1.1) -> dict[str, Any]:
    return {"name": "x", "verdict": verdict, "reason": "why", "change": change}


@pytest.mark.parametrize(
    ("benchmarks", "broken", "verdict", "words"),
    [
        ([judged("pass", 1.0), judged("regression")], {}, "regression", "+10.0%"),
        ([judged("pass"), judged("inconclusive", None)], {}, "inconclusive", "why"),
        ([judged("pass")], {"test": "KeyError"}, "unknown", "test: KeyError"),
        ([{"name": "x", "verdict": "not compared", "problem": "p"}], {}, "unknown", "x: p"),
        ([], {}, "unknown", "nothing was compared"),
    ],
)
def test_a_comparison_counts_by_its_worst_benchmark(
    benchmarks: list[dict[str, Any]], broken: dict[str, str], verdict: str, words: str
) -> None:
    assert worst({"benchmarks": benchmarks, "broken": broken}) == Measured(verdict, words)
