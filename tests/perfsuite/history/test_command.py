from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len

from perfsuite.__main__ import main
from perfsuite.render.terminal import WIDTH
from tests.perfsuite.conftest import plain_json
from tests.perfsuite.history.conftest import commit_of, levels

WriteRuns = Callable[..., list[str]]
Golden = Callable[[str, str], None]


def history(*arguments: str | Path) -> int:
    return main(["history", *map(str, arguments)])


def test_a_change_is_shown_with_its_commits(
    tmp_path: Path, write_runs: WriteRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = write_runs(tmp_path, levels(1.5, 1.65))
    assert history("--storage", tmp_path) == 0
    output = capsys.readouterr().out
    assert "tiny, 64 tokens, cpu - Abacus 9 (25.17), 2 cores, 1 thread" in output
    assert f"after {commits[29][:9]}, by {commits[30][:9]}" in output
    assert re.search(r"^fused +60 ", output, re.MULTILINE)
    assert max(map(cell_len, output.splitlines())) <= WIDTH


def test_an_accepted_change_carries_its_reason(
    tmp_path: Path, write_runs: WriteRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, accepted = tmp_path / "runs", tmp_path / "accepted.toml"
    commits = write_runs(storage, levels(1.5, 1.65))
    entry = '[[accepted]]\nsubject = "{}"\ncommit = "{}"\nreason = "{}"\n'
    accepted.write_text(
        entry.format("fused", commits[30][:12], "every reply is checked")
        + entry.format("bf16", commits[30][:12], "of another time")
    )
    assert history("--storage", storage, "--accepted", accepted) == 0
    output = capsys.readouterr().out
    assert "accepted: every reply is checked" in output
    assert "accepted, but not there: bf16" in output


def test_subjects_machines_and_foreign_figures_are_series_of_their_own(
    tmp_path: Path, document: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    contents = [
        document(0, ratio=1.5),
        document(1, ratio=1.5, subject="bf16"),
        document(2, ratio=1.5, machine={"cpu": "Rod 1"}),
        document(3, seconds=0.004),
    ]
    for number, content in enumerate(contents):
        (tmp_path / f"{number:04}_x.json").write_text(json.dumps(content))
    assert history("--storage", tmp_path) == 0
    output = capsys.readouterr().out
    assert "4 ms" in output
    assert history("--storage", tmp_path, "--machine", "rod") == 0
    assert "Abacus" not in capsys.readouterr().out
    assert history("--storage", tmp_path, "--subject", "bf16") == 0
    assert "fused" not in capsys.readouterr().out
    assert history("--storage", tmp_path, "--subject", "no such") == 0
    assert "no run is stored that fits" in capsys.readouterr().out


def test_files_are_written(tmp_path: Path, write_runs: WriteRuns) -> None:
    storage = tmp_path / "runs"
    write_runs(storage, levels(1.5, 1.65))
    chart, result = tmp_path / "h.svg", tmp_path / "h.json"
    assert history("--storage", storage, "--chart", chart, "--json", result) == 0
    root = ElementTree.fromstring(chart.read_text())  # noqa: S314 - our own
    assert root.tag.endswith("svg")
    (series,) = json.loads(result.read_text())["series"]
    assert len(series["runs"]) == 60
    (change,) = series["changes"]
    assert change["run"] == 30
    assert change["size"] == pytest.approx(1.1, rel=0.02)
    assert change["size_interval"][0] < change["size"] < change["size_interval"][1]


def test_a_change_without_a_commit_between_is_of_the_environment(
    tmp_path: Path, write_runs: WriteRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    write_runs(tmp_path, levels(1.5, 1.65), commit="1a2b3c4d5e6f")
    assert history("--storage", tmp_path) == 0
    assert "at 1a2b3c4d5: the code is the same, its environment changed" in capsys.readouterr().out


def test_a_renamed_subject_is_one_series(
    tmp_path: Path, document: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    storage, accepted = tmp_path / "runs", tmp_path / "accepted.toml"
    storage.mkdir()
    for number, name in enumerate(("parse", "parse", "parse config")):
        content = document(number, ratio=1.5, subject=name)
        (storage / f"{number:04}_x.json").write_text(json.dumps(content))
    accepted.write_text('[[renamed]]\nold = "parse"\nnew = "parse config"\n')
    assert history("--storage", storage, "--accepted", accepted) == 0
    assert re.search(r"^parse config +3 ", capsys.readouterr().out, re.MULTILINE)


def test_imported_files_are_shown(
    tmp_path: Path, document: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "old.json"
    source.write_text(json.dumps(document()))
    storage = tmp_path / "runs"
    assert history("--storage", storage, "--import", source) == 0
    assert "stored as" in capsys.readouterr().out
    assert history("--storage", storage, "--import", source) == 0
    assert "is stored already" in capsys.readouterr().out


def test_all_files_after_import_are_stored(
    tmp_path: Path, document: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell writes them for old/*.json."""
    files = [tmp_path / f"{number}.json" for number in range(3)]
    for number, file in enumerate(files):
        file.write_text(json.dumps(document(number)))
    assert history("--import", *files, "--storage", tmp_path / "runs") == 0
    assert capsys.readouterr().out.count("stored as") == 3


def test_a_damaged_file_is_told_on_stderr(
    tmp_path: Path, write_runs: WriteRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    write_runs(tmp_path, [1.0])
    (tmp_path / "0009_x.json").write_text("{")
    assert history("--storage", tmp_path) == 0
    assert "left out: " in capsys.readouterr().err


def test_what_is_shown_is_the_stored(
    tmp_path: Path,
    document: Callable[..., dict[str, Any]],
    golden: Golden,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two machines, foreign seconds, a change that was accepted and one of the environment."""
    storage, result, accepted = tmp_path / "runs", tmp_path / "h.json", tmp_path / "accepted.toml"
    storage.mkdir()
    contents = [
        document(
            number,
            ratio=(1.5, 1.65)[number >= 8] * (1 + 0.004 * (number * 7 % 5)),
            phases={"device": 0.9 + (number >= 8), "trusted": 0.6},
            budgets={"rpc_count": 32 + (number >= 8)},
        )
        for number in range(16)
    ]
    contents += [
        document(number, ratio=(2.0, 1.8)[number >= 6], subject="bf16", commit="1a2b3c4d5e6f")
        for number in range(14)
    ]
    contents += [
        document(2, ratio=1.5, subject="other", machine={"cpu": "Rod 1", "threads": 1}),
        document(3, seconds=0.004),
    ]
    for number, content in enumerate(contents):
        (storage / f"{number:04}_x.json").write_text(json.dumps(content))
    (storage / "0099_x.json").write_text("{")
    accepted.write_text(
        f'[[accepted]]\nsubject = "fused"\ncommit = "{commit_of(8)[:12]}"\nreason = "every reply is checked"\n'
    )
    options = ("--storage", storage, "--accepted", accepted, "--json", result)
    assert history(*options) == 0
    golden("history.txt", capsys.readouterr().out)
    content = json.loads(result.read_text().replace(str(tmp_path), "FOLDER"))
    golden("history.json", plain_json(content))
