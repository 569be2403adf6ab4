from __future__ import annotations

from pathlib import Path

import pytest

from perfsuite.errors import UsageError
from perfsuite.history.accepted import Accepted, Known, find, read_known

ENTRY = """[[accepted]]
subject = "fused"
commit = "1a2b3c4"
reason = "checks"
"""
RENAMED = """[[renamed]]
old = "{}"
new = "{}"
"""


def test_entries_are_read(tmp_path: Path) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text(ENTRY + ENTRY.replace("fused", "bf16"))
    assert [entry.subject for entry in read_known(path).accepted] == ["fused", "bf16"]
    path.write_text("")
    assert read_known(path) == Known()


def test_a_subject_keeps_its_history_through_each_new_name(tmp_path: Path) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text(RENAMED.format("a", "b") + RENAMED.format("b", "c") + RENAMED.format("x", "c"))
    assert read_known(path).names == {"a": "c", "b": "c", "x": "c"}
    assert read_known(path).accepted == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[accepted", "is damaged"),
        (ENTRY.replace("accepted", "excepted"), "excepted: is unknown"),
        (ENTRY.replace("reason", "because"), r"accepted\[0\]\.because: is unknown"),
        (ENTRY.replace('reason = "checks"', ""), r"accepted\[0\]\.reason: is missing"),
        (ENTRY.replace("checks", "  "), r"accepted\[0\]\.reason: say why"),
        (ENTRY.replace("1a2b3c4", "1a2b"), r"accepted\[0\]\.commit: give at least 7"),
        (ENTRY.replace('"fused"', "3"), r"accepted\[0\]\.subject: expected `str`"),
        ("accepted = 3", "accepted: expected `array`"),
        (RENAMED.format("a", "b").replace("old", "from"), r"renamed\[0\]\.from: is unknown"),
        (RENAMED.format("a", "b") + RENAMED.format("a", "c"), r"renamed\[1\]\.old: a is renamed"),
        (RENAMED.format("a", "b") + RENAMED.format("b", "a"), r"renamed\[1\]\.new: a becomes b"),
        (RENAMED.format("a", "a"), r"renamed\[0\]\.new: a becomes a"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=problem):
        read_known(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--accepted .*none.toml: cannot be read"):
        read_known(tmp_path / "none.toml")


def test_an_entry_is_of_one_subject_and_one_commit() -> None:
    entry = Accepted("fused", "1a2b3c4", "checks")
    assert find([entry], "fused", {"1a2b3c4d5e"}) is entry
    assert find([entry], "bf16", {"1a2b3c4d5e"}) is None
    assert find([entry], "fused", {"0a2b3c4d5e"}) is None
