"""The ladder's JSON: what was written reads the same, and what is damaged is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfsuite.errors import UsageError
from perfsuite.llama.results import PHASES, read_ladder

Build = Callable[..., dict[str, Any]]


def stored(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "ladder.json"
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_reads_the_same(build_result: Build, tmp_path: Path) -> None:
    content = json.loads(json.dumps(build_result()))
    ladder = read_ladder(stored(tmp_path, content))
    written = json.loads(json.dumps(ladder.as_json()))
    assert read_ladder(stored(tmp_path, written)) == ladder
    for name in content.keys() - {"stages", "unsplit"}:
        assert written[name] == content[name]
    pairs = [*zip(written["stages"], content["stages"], strict=True)]
    pairs += [
        (written["unsplit"][dtype], content["unsplit"][dtype]) for dtype in content["unsplit"]
    ]
    for found, given in pairs:
        assert {name: found[name] for name in given} == given


def test_what_an_older_file_lacks_has_a_default(build_result: Build, tmp_path: Path) -> None:
    content = build_result()
    for name in ("disturbed_runs", "next_token_agrees", "command", "rounds"):
        del content[name]
    for row in content["stages"]:
        for name in ("payload_copies", "samples_s", "kernels"):
            del row[name]
    ladder = read_ladder(stored(tmp_path, content))
    assert (ladder.disturbed_runs, ladder.next_token_agrees, ladder.rounds) == ({}, True, None)
    assert ladder.stages[0].payload_copies == 0


def damage(content: dict[str, Any], where: str, value: Any) -> None:
    *path, last = where.split(".")
    place: Any = content
    for step in path:
        place = place[int(step) if step.isdecimal() else step]
    if value is ...:
        del place[last]
    else:
        place[last] = value


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        ("stages.1.latency_s.median", 0, r"stages\[1\]\.latency_s\.median"),
        ("stages.1.latency_s.low", 9.0, r"stages\[1\]\.latency_s"),
        ("stages.0.rpc_count", -1, r"stages\[0\]\.rpc_count"),
        ("stages.0.vs_unsplit", ..., "vs_unsplit.*is missing"),
        *((f"stages.2.phases_s.{phase}", ..., f"phases_s.{phase}.*is missing") for phase in PHASES),
        ("unsplit.float32.latency_s", None, "latency_s"),
        ("tokens", 0, "tokens"),
    ],
)
def test_a_damaged_field_is_named_with_the_file(
    build_result: Build, tmp_path: Path, where: str, value: Any, named: str
) -> None:
    content = json.loads(json.dumps(build_result()))
    damage(content, where, value)
    path = stored(tmp_path, content)
    with pytest.raises(UsageError, match=named) as caught:
        read_ladder(path)
    assert str(caught.value).startswith(f"{path}: ")
