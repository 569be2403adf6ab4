"""What else changed where a series changed its level."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perfsuite.history.accepted import Known
from perfsuite.history.command import read_stories
from perfsuite.history.explaining import explain
from perfsuite.history.series import gather
from perfsuite.history.store import read
from tests.perfsuite.history.conftest import levels

WriteRuns = Callable[..., list[str]]


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
