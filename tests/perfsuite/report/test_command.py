from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfsuite.__main__ import main
from perfsuite.llama.results import read_ladder
from perfsuite.llama.table import ladder_blocks
from perfsuite.render.markdown import markdown

Build = Callable[..., dict[str, Any]]
Golden = Callable[[str, str], None]


@pytest.fixture
def ladder_file(tmp_path: Path, build_result: Build) -> Path:
    path = tmp_path / "ladder.json"
    path.write_text(json.dumps(build_result()))
    return path


def test_markdown_goes_to_a_file_or_to_stdout(
    ladder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, summary = tmp_path / "page.html", tmp_path / "summary.md"
    options = ["report", "--ladder", str(ladder_file), "--output", str(page)]
    assert main([*options, "--markdown", str(summary)]) == 0
    assert capsys.readouterr().out == f"wrote {page}\n"
    assert main([*options, "--markdown", "-"]) == 0
    text = capsys.readouterr().out
    assert text == summary.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| shared-memory")]
    assert rows[0].startswith("| shared-memory | 1.50 [1.40, 1.70] s | 2.0x | 0.50 [0.40, 0.60] |")
    assert rows[1] == "| shared-memory | 20.0% | 20.0% | 20.0% | 20.0% | 20.0% |"


def test_markdown_holds_no_markup_of_its_inputs(ladder_file: Path) -> None:
    content = json.loads(ladder_file.read_text())
    content["stages"][0]["name"] = "a|b\n# <img src=x> [l](u) @someone `c`"
    ladder_file.write_text(json.dumps(content))
    text = markdown(ladder_blocks(read_ladder(ladder_file)))
    assert r"a\|b # \<img src=x> [l]\(u) @someone \`c\`" in text
    assert len({line.count(" | ") for line in text.splitlines() if line.startswith("| ")}) == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stages": 3}, "stages: expected `array`"),
        ({"machine": None}, "machine: is missing"),
        ({"model": 7}, "model: expected `str`"),
        ({"tokens": -1}, "tokens: expected `int` >= 1"),
    ],
)
def test_a_damaged_ladder_is_named(
    ladder_file: Path,
    change: dict[str, Any],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ladder_file.write_text(json.dumps({**json.loads(ladder_file.read_text()), **change}))
    assert main(["report", "--ladder", str(ladder_file)]) == 2
    assert f"{ladder_file}: {problem}" in capsys.readouterr().err


def test_the_ladders_markdown_is_the_stored_one(ladder_file: Path, golden: Golden) -> None:
    content = json.loads(ladder_file.read_text())
    content["stages"][0]["name"] = "a|b\n# <img src=x> [l](u) @someone `c`"
    content["stages"][1].update(vs_baseline=None, vs_baseline_interval=None)
    ladder_file.write_text(json.dumps(content))
    golden("ladder.md", markdown(ladder_blocks(read_ladder(ladder_file))))
