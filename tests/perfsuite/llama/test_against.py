from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from perfsuite.errors import UsageError
from perfsuite.llama.against import against_blocks, check_alike, read_earlier
from perfsuite.llama.results import Ladder
from perfsuite.render.terminal import WIDTH
from perfsuite.schema import decode
from tests.perfsuite.conftest import shown

Build = Callable[..., dict[str, Any]]
Golden = Callable[[str, str], None]


def stored(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "then.json"
    path.write_text(json.dumps(content))
    return path


def beside(now: dict[str, Any], path: Path) -> str:
    ladder = decode(now, Ladder, "now.json")
    return shown(against_blocks(ladder, path, read_earlier(path)))


def test_both_runs_stand_beside_each_other(build_result: Build, tmp_path: Path) -> None:
    text = beside(build_result(), stored(tmp_path, build_result(2.0)))
    (line,) = (line for line in text.splitlines() if line.startswith("fused"))
    assert " ".join(line.split()) == (
        "fused 3.00 [2.80, 3.40] s 1.50 [1.40, 1.70] s 0.50 1.00 [0.80, 1.20] 0.50 [0.40, 0.60]"
    )
    assert any(line.startswith("unsplit float32  3.00") for line in text.splitlines())
    assert "now: on" not in text
    assert "no verdict" in text
    assert max(map(cell_len, text.splitlines())) <= WIDTH


def test_another_machine_is_said(build_result: Build, tmp_path: Path) -> None:
    then = build_result()
    then["machine"] = {**then["machine"], "cpu": "Rod 1"}
    text = " ".join(beside(build_result(), stored(tmp_path, then)).split())
    assert "on Rod 1, 2 cores" in text
    assert "now: on a processor with a rather long name" in text


def test_what_only_one_of_them_ran_has_a_dash(build_result: Build, tmp_path: Path) -> None:
    then, now = build_result(), build_result()
    del then["stages"][0], now["stages"][1]
    text = beside(now, stored(tmp_path, then))
    assert text.count(" - ") >= 4


def test_of_one_round_no_interval_is_beside(build_result: Build, tmp_path: Path) -> None:
    text = beside(build_result(), stored(tmp_path, build_result(rounds=1)))
    (line,) = (line for line in text.splitlines() if line.startswith("fused"))
    assert line.split()[:3] == ["fused", "1.50", "s"]
    assert line.count("[") == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens": 64}, "its tokens is 64, not 1024"),
        ({"model": "other"}, "its model is 'other'"),
        ({"device": "cuda"}, "its device is 'cuda'"),
        ({"stages": 3}, "stages: expected `array`"),
        ({"machine": None}, "machine: is missing"),
        ({"rounds": 0}, "rounds: expected `int` >= 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    build_result: Build, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    path = stored(tmp_path, build_result(**changes))

    def use() -> None:
        check_alike(path, read_earlier(path), "tiny", 1024, "cpu")

    with pytest.raises(UsageError, match=problem):
        use()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_earlier(tmp_path / "none.json")


def test_the_text_is_the_stored_one(
    build_result: Build, tmp_path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    then, now = build_result(2.0), build_result()
    then["machine"] = {**then["machine"], "cpu": "Rod 1"}
    del then["stages"][0], now["stages"][1]
    monkeypatch.chdir(tmp_path)
    golden("against.txt", beside(now, stored(Path(), then)))
