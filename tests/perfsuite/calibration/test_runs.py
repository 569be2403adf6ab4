"""Runs that are kept, on a pytest that is none: what it is asked is noted, and its reports are given."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.calibration import runs
from perfsuite.calibration.runs import BASELINES, COMPARE, Folder, Kind
from perfsuite.errors import MeasurementError, UsageError
from tests.perfsuite.calibration.conftest import Store, read, subject


@dataclass
class Pytest:
    """Takes the place of ``subprocess.run``."""

    status: int = 0
    subjects: Sequence[dict[str, Any]] = ()
    asked: list[list[str]] = field(default_factory=list)

    def __call__(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.asked.append(list(command))
        for argument in command:
            if argument.startswith("--perf-report=") and self.subjects:
                Path(argument.partition("=")[2]).write_text(json.dumps({"subjects": self.subjects}))
            if argument.startswith("--perf-baselines="):
                Path(argument.partition("=")[2]).touch()
        return subprocess.CompletedProcess(command, self.status, "its last words")

    def options(self, run: int = -1) -> list[str]:
        return [
            one
            for one in self.asked[run]
            if one.startswith(("--perf-slow", "--perf-ag", "--upd", "--ext"))
        ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Pytest:
    made = Pytest(subjects=[subject(phases={"device": 0.5})])
    monkeypatch.setattr(subprocess, "run", made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, ["tests/test_a.py", "-k", "a or b"], ["-operf_processes=4"])


@pytest.mark.parametrize(
    ("kind", "name", "title"),
    [
        (Kind(), "equal", "unchanged"),
        (Kind(0.1), "total+10%", "+10%"),
        (Kind(0.07), "total+7%", "+7%"),
        (Kind(0.035), "total+3.5%", "+3.5%"),
        (Kind(0.1, "device"), "device+10%", "+10%, device"),
        (Kind(mode=COMPARE), "compare-equal", "unchanged"),
        (Kind(2.0, mode=COMPARE), "compare-total+200%", "+200%"),
    ],
)
def test_kinds_have_names(kind: Kind, name: str, title: str) -> None:
    assert kind.name == name
    assert str(kind) == title


@given(*[st.integers(1, 5000).map(lambda tenths: tenths / 1000)] * 2)
def test_no_two_kinds_share_a_name(one: float, other: float) -> None:
    assert (Kind(one).name == Kind(other).name) is (one == other)


def test_a_run_is_kept_and_read_again(folder: Folder, fake: Pytest) -> None:
    kind = Kind()
    assert folder.runs(kind) == []
    made = [folder.run(kind), folder.run(kind)]
    assert folder.runs(kind) == made
    assert folder.runs(Kind(0.1)) == []
    assert {path.name for path in folder.path.iterdir()} >= {"equal-000.json", "equal-001.json"}
    (command, _) = fake.asked
    assert command[1:6] == ["-m", "pytest", "tests/test_a.py", "-k", "a or b"]
    assert "-operf_processes=4" in command
    assert f"--perf-baselines={folder.path / BASELINES}" in command


def test_a_comparison_needs_no_folder_before(tmp_path: Path, fake: Pytest) -> None:
    folder = Folder(tmp_path / "new", ["tests"])
    assert folder.run(Kind(mode=COMPARE)).outcomes
    assert fake.options() == ["--perf-against=HEAD"]


def test_a_report_that_was_removed_leaves_the_later_ones_alone(
    folder: Folder, fake: Pytest, store: Store
) -> None:
    for number in range(3):
        store(Kind(), number, subject(f"run {number}"))
    (folder.path / "equal-001.json").unlink()
    folder.run(Kind())
    names = [list(run.outcomes) for run in folder.runs(Kind())]
    assert names == [["run 0"], ["run 2"], ["mine"]]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Kind(), []),
        (Kind(0.1), ["--perf-slowdown=*=1.1000"]),
        (Kind(mode=COMPARE), ["--perf-against=HEAD"]),
        (Kind(0.05, mode=COMPARE), ["--perf-against=HEAD", "--perf-slowdown=*=1.0500"]),
    ],
)
def test_a_kind_is_what_pytest_is_asked(
    folder: Folder, fake: Pytest, kind: Kind, options: list[str]
) -> None:
    folder.run(kind)
    assert fake.options() == options


@pytest.mark.parametrize("mode", ["gate", COMPARE])
def test_a_phase_is_slowed_by_a_share_of_the_whole_call(
    folder: Folder, fake: Pytest, store: Store, mode: str
) -> None:
    unchanged = [
        subject("a", phases={"device": 0.5}),  # a quarter of its time
        subject("b|c", phases={"device": 2.0}),
        subject("without", phases={"device": 0.0}),
        subject("skipped", verdict="not-measured", ratio=None),
    ]
    store(Kind(mode=mode), 0, *unchanged)
    folder.run(Kind(0.1, "device", mode))
    assert [one for one in fake.options() if "against" not in one] == [
        "--perf-slowdown=a:device=1.4000",
        "--perf-slowdown=b|c:device=1.1000",
    ]


def test_a_phase_that_no_benchmark_has_is_named(folder: Folder, fake: Pytest, store: Store) -> None:
    store(Kind(), 0, subject())
    with pytest.raises(UsageError, match="share of the phase 'device'"):
        folder.run(Kind(0.1, "device"))
    assert fake.asked == []


@pytest.mark.parametrize("status", [0, 1, 10])
def test_runs_with_verdicts_count_whatever_they_are(
    folder: Folder, fake: Pytest, status: int
) -> None:
    fake.status = status
    assert folder.run(Kind()).outcomes


@pytest.mark.parametrize(("status", "subjects"), [(2, [subject()]), (4, [subject()]), (1, [])])
def test_a_run_without_verdicts_is_an_error_that_shows_why(
    folder: Folder, fake: Pytest, status: int, subjects: list[dict[str, Any]]
) -> None:
    fake.status, fake.subjects = status, subjects
    with pytest.raises(MeasurementError, match="gave no verdicts:\nits last words"):
        folder.run(Kind())


def test_baselines_are_recorded_once_and_extended(folder: Folder, fake: Pytest) -> None:
    folder.record_baselines(3)
    assert [fake.options(run) for run in range(len(fake.asked))] == [
        ["--update-baselines"],
        *[["--extend-baselines"]] * 3,
    ]
    folder.record_baselines(3)
    assert len(fake.asked) == 1 + 3


def test_baselines_that_cannot_be_recorded_leave_no_file(folder: Folder, fake: Pytest) -> None:
    fake.status = 1
    with pytest.raises(MeasurementError, match="could not be recorded:\nits last words"):
        folder.record_baselines(3)
    assert not (folder.path / BASELINES).exists()


@pytest.mark.parametrize("text", ["{}", "{", '{"subjects": [{}]}', '{"subjects": 3}'])
def test_a_damaged_report_is_named(folder: Folder, text: str) -> None:
    (folder.path / "equal-000.json").write_text(text)
    with pytest.raises(UsageError, match=r"equal-000\.json: is damaged: .*; remove it"):
        folder.runs(Kind())


def test_a_run_that_never_ends_is_an_error(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: Any, **options: Any) -> None:
        raise subprocess.TimeoutExpired("pytest", options["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(MeasurementError, match="longer than 3600 s"):
        folder.run(Kind())


@pytest.mark.parametrize(
    ("verdict", "red", "undecided"),
    [
        ("pass", False, False),
        ("improved", False, False),
        ("regression", True, False),
        ("inconclusive", False, True),
        ("unknown-speed", False, True),
        ("extend-baseline", False, True),
    ],
)
def test_verdicts(verdict: str, red: bool, undecided: bool) -> None:
    run = runs.Run(Kind(), {"mine": read(verdict=verdict, grew_most="device")})
    assert (run.is_red("mine"), run.is_undecided("mine")) == (red, undecided)
    assert not run.is_red("another")
    assert not run.is_undecided("another")
    assert run.grew("mine") == "device"
    assert run.grew("another") is None


def test_what_an_interrupted_run_has_reported_does_not_count(folder: Folder, fake: Pytest) -> None:
    fake.status = 2
    fake.subjects = [subject()]
    with pytest.raises(MeasurementError):
        folder.run(Kind())
    assert folder.runs(Kind()) == []
