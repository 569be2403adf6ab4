from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from perfsuite.__main__ import main
from perfsuite.history.accepted import Known
from perfsuite.history.chart import story_chart
from perfsuite.history.command import read_stories
from perfsuite.history.explaining import explain
from perfsuite.history.rates import noise
from perfsuite.history.series import gather
from perfsuite.history.store import read
from perfsuite.history.trend import history_blocks, sparkline
from perfsuite.render.terminal import WIDTH, show
from tests.perfsuite.conftest import plain_json
from tests.perfsuite.history.conftest import commit_of

WriteRuns = Callable[..., list[str]]
Golden = Callable[[str, str], None]


def levels(*steps: float, each: int = 30, seed: int = 0) -> list[float]:
    """Runs on each of the levels, with 1 % of correlated noise."""
    logs = noise(np.random.default_rng(seed), 1, each * len(steps), spread=0.01, phi=0.3)[0]
    return list(np.repeat(steps, each) * np.exp(logs))


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


def test_an_accepted_commit_between_two_runs_is_found_by_git(
    tmp_path: Path, write_runs: WriteRuns
) -> None:
    from perfsuite.history.accepted import Accepted

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    commits = []
    for number in range(3):
        git("commit", "-q", "--allow-empty", "-m", str(number))
        commits.append(git("rev-parse", "HEAD"))
    storage = tmp_path / "runs"
    values = levels(1.0, 1.3, seed=1)
    write_runs(storage, values[:30], commit=commits[0])
    (series,) = gather(read(storage).runs)
    after = [point.__class__(**{**vars(point), "commit": commits[2]}) for point in series.points]
    whole = series.__class__(
        "fused",
        "",
        "",
        "ratio",
        (
            *series.points,
            *(
                point.__class__(**{**vars(point), "value": value})
                for point, value in zip(after, values[30:], strict=True)
            ),
        ),
    )
    entry = Accepted("fused", commits[1], "the one between")
    assert explain(whole, [entry], tmp_path).changes[0].accepted is entry
    assert explain(whole, [entry], None).changes[0].accepted is None


def test_what_moved_with_a_change_is_told(
    tmp_path: Path, document: Callable[..., dict[str, Any]]
) -> None:
    for number, value in enumerate(levels(1.5, 1.8)):
        late = number >= 30
        content = document(
            number,
            ratio=value,
            phases={"device": 1.2 if late else 0.9, "trusted": 0.6},
            budgets={"rpc_count": 32 + late},
        )
        content["benchmarks"][0]["extra_info"]["machine"] = {
            "cpu": "Abacus 9",
            "torch": "2.14.0" if late else "2.13.0",
        }
        (tmp_path / f"{number:04}_x.json").write_text(json.dumps(content))
    ((story,), _) = read_stories(tmp_path, Known())
    (change,) = story.changes
    assert change.moved == (
        "mostly device (+0.300 of the reference's time)",
        "rpc_count 32 -> 33",
        "torch 2.13.0 -> 2.14.0",
    )


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


def test_the_figures_of_an_axis_differ_however_close_the_runs_are(
    tmp_path: Path, write_runs: WriteRuns
) -> None:
    write_runs(tmp_path, [1.0001, 1.0002, 1.0003, 1.0004])
    ((story,), _) = read_stories(tmp_path, Known())
    labels = re.findall(r">([\d.]+x)<", story_chart(story))
    assert len(labels) >= 3
    assert len(set(labels)) == len(labels)


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


def test_a_terminal_without_unicode_gets_a_line_too(tmp_path: Path, write_runs: WriteRuns) -> None:
    write_runs(tmp_path, levels(1.5, 1.65))
    stories, _ = read_stories(tmp_path, Known())
    page = TextIOWrapper(BytesIO(), encoding="ascii")
    show(history_blocks(stories), Console(file=page, markup=False))
    page.seek(0)
    assert "_" in page.read()


def test_a_sparkline_goes_from_lowest_to_highest() -> None:
    assert sparkline([1, 2, 3], blocks="_-^") == "_-^"
    assert sparkline([1.0] * 3, blocks="_-^") == "---"
    assert sparkline(range(1, 101), cells=3, blocks="_-^") == "_-^"
    assert len(sparkline([1.0] * 100, cells=40)) == 40


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
