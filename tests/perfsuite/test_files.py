from __future__ import annotations

import json
from pathlib import Path

import pytest

from perfsuite.errors import UsageError
from perfsuite.files import check_writable, write_json


def test_a_result_replaces_the_old_one_whole(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    for number in (1, 2):
        write_json(file, {"number": number})
        assert json.loads(file.read_text()) == {"number": number}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_link_keeps_pointing_at_what_is_written(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    write_json(link, {})
    assert link.is_symlink()
    assert (tmp_path / "target").read_text() == "{}\n"


def test_a_write_that_fails_leaves_the_old_result_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"not a number": float("nan")})
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_checking_changes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "result.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["missing/result.json", ".", "/dev/null", "/proc/result.json"])
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--json"):
        check_writable(tmp_path / name)
