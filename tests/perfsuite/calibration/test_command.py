"""The command as its users run it, on reports that are there already, and on a pytest that is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from perfsuite.__main__ import main
from perfsuite.calibration.runs import COMPARE, Folder, Kind, Run
from perfsuite.render.blocks import Paragraph
from tests.perfsuite.calibration.conftest import Store, read, subject


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kinds that were run; baselines are recorded at once."""
    names: list[str] = []

    def run(folder: Folder, kind: Kind) -> Run:
        names.append(kind.name)
        return Run(kind, {"mine": read(verdict="regression" if kind.share else "pass")})

    monkeypatch.setattr(Folder, "run", run)
    monkeypatch.setattr(
        Folder,
        "record_baselines",
        lambda folder, extensions: names.append("baselines"),
    )
    monkeypatch.setattr(Folder, "recordings", lambda folder: 4)
    return names


def test_what_is_missing_is_run_in_turn(
    tmp_path: Path, store: Store, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store(Kind(), 0, subject())
    options = ["--equal=3", "--slowed=2", "--shares=0.1", f"--write={tmp_path / 'found.md'}"]
    assert main(["calibrate", str(tmp_path), "tests", *options]) == 0
    assert ran == ["baselines", "total+10%", "equal", "total+10%", "equal"]
    assert re.search(r"^3 unchanged +0 of 3 \[0%, 71%\]", capsys.readouterr().out, re.MULTILINE)
    text = (tmp_path / "found.md").read_text()
    assert "| 3 unchanged | 0 of 3 [0%, 71%]" in text
    assert "| 2 +10% | 2 of 2 [16%, 100%]" in text


def test_phases_are_run_where_they_are_asked_for(tmp_path: Path, ran: list[str]) -> None:
    assert main(["calibrate", str(tmp_path), "--equal=1", "--slowed=0", "--phases=1"]) == 0
    assert "device+10%" in ran


def test_a_comparison_needs_no_baselines(tmp_path: Path, ran: list[str]) -> None:
    options = ["--equal=1", "--slowed=1", "--shares=0.05", "--compare"]
    assert main(["calibrate", str(tmp_path), *options]) == 0
    assert ran == [Kind(mode=COMPARE).name, Kind(0.05, mode=COMPARE).name]


def test_what_was_run_is_not_run_again(tmp_path: Path, store: Store, ran: list[str]) -> None:
    store(Kind(), 0, subject())
    assert main(["calibrate", str(tmp_path), "--equal=1", "--slowed=0"]) == 0
    assert ran == ["baselines"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["runs", "--equal=-1"], "--equal -1: must not be negative"),
        (["runs", "--slowed=-1"], "--slowed -1: must not be negative"),
        (["runs", "--phases=-1"], "--phases -1: must not be negative"),
        (["runs", "--shares=0.1,a"], "--shares 0.1,a: must be positive numbers"),
        (["runs", "--shares=0"], "--shares 0: must be positive numbers"),
        ([], "FOLDER: is needed unless --simulate"),
        (["--simulate", "--suites=0"], "--suites 0: must be positive"),
    ],
)
def test_what_cannot_be_used_is_named(
    options: list[str], problem: str, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *options]) == 2
    assert problem in capsys.readouterr().err
    assert ran == []


def test_a_damaged_report_is_named(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "equal-000.json").write_text("{}")
    assert main(["calibrate", str(tmp_path), "--equal=1", "--slowed=0"]) == 2
    assert "equal-000.json: is damaged" in capsys.readouterr().err


def test_rules_are_simulated_without_any_run(
    monkeypatch: pytest.MonkeyPatch, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from perfsuite.calibration import simulate

    asked: list[int] = []

    def simulated(conditions: list[Any], suites: int) -> list[Any]:
        assert conditions
        asked.append(suites)
        return []

    monkeypatch.setattr(simulate, "simulate", simulated)
    monkeypatch.setattr(simulate, "table", lambda found: Paragraph("the table"))
    assert main(["calibrate", "--simulate", "--suites=7"]) == 0
    assert (asked, ran) == ([7], [])
    assert "perfsuite calibrate --simulate --suites=7\n\nthe table" in capsys.readouterr().out
