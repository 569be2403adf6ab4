from __future__ import annotations

import json
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import pytest

from perfsuite.adopting import MAX_BYTES, adopt, main
from perfsuite.errors import UsageError
from perfsuite.gate.baselines import Baselines, Entry, Process, Profile, read, write

KEPT = Path(__file__).parents[2] / "perfsuite" / "baselines.json"
MACHINE = {
    "cpu": "a processor",
    "cpu_model": "1.1",
    "threads": 1,
    "gpu": "a GPU",
    "driver": "1",
    "torch": "2",
    "cuda": "1",
}
WORKLOAD = {"model": "smollm2-135m", "tokens": 1024, "device": "cuda"}
RECORDED = {"commit": "0123456789ab", "date": "2026-01-01"}


def entry(
    log_ratio: float = 0.0,
    *,
    processes: int = 3,
    margin: float = 0.05,
    phases: dict[str, float] | None = None,
) -> Entry:
    """What was recorded in so many equal processes."""
    return Entry([Process([log_ratio] * 3, 1.0, 1.0, phases or {})] * processes, margin)


def recorded(folder: Path, ratio: float = 0.5, **replaced: Any) -> Path:
    """A file as a recording job makes it, one place of its profile replaced."""
    fields: dict[str, Any] = {
        "machine": MACHINE,
        "workload": WORKLOAD,
        "recorded": RECORDED,
        "entries": {"fused": entry(log(ratio), phases={"device": 0.4})},
    }
    path = folder / "recorded.json"
    write(path, Baselines([Profile(**{**fields, **replaced})]))
    return path


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept.json"
    path.write_bytes(KEPT.read_bytes())
    return path


def test_a_new_machine_is_added_beside_the_others(tmp_path: Path, kept: Path) -> None:
    before = read(kept)
    assert adopt(recorded(tmp_path), kept) == "a GPU: added: fused"
    after = read(kept)
    assert after.profiles[:-1] == before.profiles
    assert after.profiles[-1].machine == MACHINE
    assert adopt(tmp_path / "recorded.json", kept) == "nothing new"


def test_a_known_machine_is_replaced(tmp_path: Path, kept: Path) -> None:
    adopt(recorded(tmp_path), kept)
    assert adopt(recorded(tmp_path, ratio=0.25), kept) == "a GPU: replaced: fused"
    found = [profile for profile in read(kept).profiles if profile.machine == MACHINE]
    assert [profile.entries["fused"].ratio for profile in found] == [pytest.approx(0.25, rel=1e-3)]


@pytest.mark.parametrize(
    ("replaced", "problem"),
    [
        ({"machine": {**MACHINE, "note": "x"}}, "machine: must hold"),
        ({"machine": {**MACHINE, "gpu": "x" * 1000}}, "machine.gpu"),
        ({"machine": {**MACHINE, "gpu": "\x1b[31m"}}, "machine.gpu"),
        ({"machine": {**MACHINE, "gpu": ["a list"]}}, "machine.gpu"),
        ({"workload": {}}, "workload: must hold"),
        ({"recorded": {**RECORDED, "date": "a\nb"}}, "recorded.date"),
        ({"entries": {}}, "entries: must be of"),
        ({"entries": {"mine": entry()}}, "entries: must be of"),
        ({"entries": {"fused": entry(margin=0.9)}}, "fused.margin"),
        ({"entries": {"fused": entry(processes=101)}}, "fused.processes"),
        ({"entries": {"fused": entry(phases={"\x1b[31m": 0.4})}}, "fused.phases"),
    ],
)
def test_what_is_unknown_is_refused_and_changes_nothing(
    tmp_path: Path, kept: Path, replaced: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        adopt(recorded(tmp_path, **replaced), kept)
    assert kept.read_bytes() == KEPT.read_bytes()


def test_a_file_of_several_machines_is_refused(kept: Path) -> None:
    several = read(KEPT)
    several.profiles *= 2
    write(kept, several)
    with pytest.raises(UsageError, match="must be one, got"):
        adopt(kept, KEPT)


def _linked(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text(json.dumps({"schema": 1, "profiles": [1], "portable": {}})),
        lambda path: path.write_text(" " * (MAX_BYTES + 1)),
        lambda path: path.mkdir(),
        _linked,
        lambda path: None,
    ],
    ids=["damaged", "misshapen", "huge", "folder", "link", "missing"],
)
def test_what_is_no_such_file_is_refused_in_one_line(
    tmp_path: Path,
    kept: Path,
    make: Callable[[Path], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / "offered.json")
    assert main([str(tmp_path / "offered.json"), str(kept)]) == 2
    assert capsys.readouterr().err.startswith("adopting: ")
    assert kept.read_bytes() == KEPT.read_bytes()
