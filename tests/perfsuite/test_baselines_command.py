from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from perfsuite import baselines_command
from perfsuite.baselines_command import MOST_ADOPTED_BYTES
from perfsuite.errors import UsageError
from perfsuite.gate.baselines import MOST_PROCESSES, Baselines, Entry, Plan, Recording, Scalar
from perfsuite.gate.process import Process

Golden = Callable[[str, str], None]

MACHINE: dict[str, Scalar] = {"cpu": "a processor", "threads": 1, "gpu": None}
OTHER: dict[str, Scalar] = {"cpu": "a processor", "gpu": "a GPU", "threads": 1}
WORKLOAD: dict[str, Scalar] = {"tokens": 64}
FIRST = {"commit": "aaaaaaa", "date": "2026-01-02T03:04Z"}
SECOND = {"commit": "bbbbbbb", "date": "2026-02-03T04:05Z"}


def recording(
    ratio: float = 1.5, count: int = 3, recorded: Any = FIRST, **fields: Any
) -> Recording:
    given = {"phases": {"device": 0.5}, "rounds": 10, **fields}
    one = Process(math.log(ratio), 1e-6 * ratio, 1e-6, **given)
    return Recording(recorded, (one,) * count)


def entry(name: str = "fused", ratio: float = 1.5, **fields: Any) -> Entry:
    given: dict[str, Any] = {
        "machine": MACHINE,
        "workload": WORKLOAD,
        "reference": "own",
        "code": "c0de",
        "plan": Plan(1, 1, 1, 10, 0),
        "quantile": None,
        "recordings": (recording(ratio),),
    }
    return Entry(name, **{**given, **fields})


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's baselines, of three benchmarks, committed."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nperf_baselines = kept.json\n")
    file = tmp_path / "kept.json"
    Baselines(file).record(
        entry(), entry("bf16", workload={}), entry("old", 8e6), entry(machine=OTHER)
    )
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    commit()
    return file


def git(*arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=one", "-c", "user.email=one@example.org", *arguments], check=True
    )


def commit() -> None:
    git("add", "--all")
    git("commit", "--quiet", "-m", "one")


def call(*arguments: object) -> int:
    """Call ``perfsuite baselines`` with these arguments."""
    program = get_command(baselines_command.app)
    with program.make_context("baselines", [*map(str, arguments)]) as context:
        code: int = program.invoke(context)
        return code


Output = pytest.CaptureFixture[str]


def lines(output: Output) -> list[list[str]]:
    """What was printed, as words."""
    return [line.split() for line in output.readouterr().out.splitlines()]


def test_list_tells_machine_figures_and_provenance(path: Path, capsys: Output) -> None:
    Baselines.read(path).extend(entry(recordings=(recording(1.5, 2, SECOND),)))
    assert call("list") == 0
    shown = lines(capsys)
    date = ["2026-01-02T03:04Z", "aaaaaaa"]
    later = ["2026-02-03T04:05Z", "bbbbbbb"]
    assert shown[0] == ["a", "processor,", "threads", "1"]
    assert shown[2] == ["bf16", "1.50", "us", "1.500", "own", "3", "1", *date]
    assert shown[3] == [
        "fused", "(tokens", "64)", "1.50", "us", "1.500", "own", "5", "2", *date, *later,
    ]  # fmt: skip
    assert shown[4] == ["old", "(tokens", "64)", "8.00", "s", "8000000", "own", "3", "1", *date]
    assert shown[6] == ["a", "processor,", "a", "GPU,", "threads", "1"]
    assert len(shown) == 9


def test_list_of_an_empty_file_says_so(path: Path, capsys: Output) -> None:
    Baselines.read(path).remove({"fused", "bf16", "old"})
    assert call("list") == 0
    assert capsys.readouterr().out == f"{path}: nothing is stored\n"


def test_the_file_is_that_of_the_nearest_ini_file_or_the_one_given(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    folder = path.parent / "part" / "tests"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert call("list") == 0
    (path.parent / "part" / "pytest.ini").write_text("")
    with pytest.raises(UsageError, match=r"part/baselines.json: no such file; --file"):
        call("list")
    assert call("list", "--file", path) == 0
    assert "fused" in capsys.readouterr().out


def test_diff_tells_what_was_done_to_each(path: Path, capsys: Output) -> None:
    assert call("diff") == 0
    assert capsys.readouterr().out == f"{path}: as in HEAD\n"
    stored = Baselines.read(path)
    stored.record(
        entry(ratio=1.65), entry("new", 0.5), entry(machine=OTHER, reference="memory", code="else")
    )
    stored.extend(entry("bf16", workload={}, recordings=(recording(1.5, 2, SECOND),)))
    stored.remove({"old"})
    assert call("diff") == 0
    _, *shown = [" ".join(words) for words in lines(capsys)]
    here, there = "a processor, threads 1", "a processor, a GPU, threads 1"
    assert shown == [
        f"extended bf16 1.500 -> 1.500 (the same) 3 -> 5 processes {here}",
        f"changed fused (tokens 64) 1.500 x own -> 1.500 x memory another reference {there}",
        f"changed fused (tokens 64) 1.500 -> 1.650 (+10.0%) 3 -> 3 processes {here}",
        f"added new (tokens 64) 0.5000 x own 500 ns {here}",
        f"removed old (tokens 64) 8000000 x own 8.00 s {here}",
    ]


def test_diff_tells_that_the_benchmark_is_another(path: Path, capsys: Output) -> None:
    Baselines.read(path).record(entry(code="else"))
    assert call("diff") == 0
    assert "3 -> 3 processes, another benchmark's code" in capsys.readouterr().out


def test_diff_takes_any_revision_or_file(path: Path, capsys: Output) -> None:
    other = path.parent / "other.json"
    Baselines(other).record(entry("only there"))
    Baselines.read(path).rename("old", "renamed")
    commit()
    for before, said in (("HEAD~1", "removed  old"), ("other.json", "removed  only there")):
        assert call("diff", before) == 0
        assert said in capsys.readouterr().out
    assert call("diff", "--file", other, "HEAD~1") == 0  # where that file was not yet there
    assert "added  only there" in capsys.readouterr().out


def test_diff_reads_revisions_of_the_schema_before(path: Path, capsys: Output) -> None:
    process = {"rounds": [math.log(1.5)] * 3, "latency_ms": 1.0, "yardstick_ms": 1.0, "phases": {}}
    profile = {
        "machine": MACHINE,
        "workload": WORKLOAD,
        "recorded": FIRST,
        "entries": {"fused": {"processes": [process] * 3}},
    }
    now = path.read_text()
    path.write_text(json.dumps({"schema": 5, "profiles": [profile], "portable": {}}))
    commit()
    path.write_text(now)
    assert call("diff") == 0
    assert "1.500 -> 1.500 (the same)" in capsys.readouterr().out


@pytest.mark.parametrize("before", ["no-such", "--output=x", "other/none.json"])
def test_diff_with_nothing_is_told(path: Path, before: str) -> None:
    with pytest.raises(UsageError, match="neither a file nor a revision"):
        call("diff", "--", before)


def test_prune_removes_names(path: Path, capsys: Output) -> None:
    assert call("prune", "--dry-run", "fused") == 0
    assert capsys.readouterr().out == "would remove: fused\n"
    assert Baselines.read(path).names == {"fused", "bf16", "old"}
    assert call("prune", "fused", "old") == 0
    assert capsys.readouterr().out == "removed: fused\nremoved: old\n"
    assert Baselines.read(path).names == {"bf16"}


def report(path: Path, *names: str, **fields: Any) -> Path:
    """A report of a run that measured these."""
    file = path.parent / "report.json"
    subjects = [{"name": name, "test": f"test_{name}", "verdict": "pass"} for name in names]
    file.write_text(json.dumps({"subjects": subjects, **fields}))
    return file


def test_prune_removes_what_a_whole_run_did_not_use(path: Path, capsys: Output) -> None:
    assert call("prune", "--unused", report(path, "fused", "bf16", whole=True)) == 0
    assert capsys.readouterr().out == "removed: old\n"
    assert Baselines.read(path).names == {"fused", "bf16"}
    assert call("prune", "--unused", report(path, "fused", "bf16")) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda path: report(path, "fused", whole=False), "part of the tests"),
        (report, "no benchmark at all"),
        (lambda path: report(path, subjects=7), "subjects: expected `array`"),
        (
            lambda path: report(
                path, subjects=[{"name": "t", "test": "t", "verdict": "not-measured"}]
            ),
            "t was not measured",
        ),
        (lambda path: path.parent / "none.json", "cannot be read"),
    ],
    ids=["part", "empty", "misshapen", "skipped", "missing"],
)
def test_prune_takes_no_report_that_does_not_show_all(
    path: Path, made: Callable[[Path], Path], problem: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(UsageError, match=problem):
        call("prune", "--unused", made(path))
    assert path.read_bytes() == before


def test_prune_needs_to_be_told_what(path: Path) -> None:
    with pytest.raises(UsageError, match="give names, or --unused"):
        call("prune")
    with pytest.raises(UsageError, match="no benchmark is called 'none'"):
        call("prune", "none", "fused")
    assert "fused" in Baselines.read(path).names


def test_rename_keeps_the_recordings(path: Path, capsys: Output) -> None:
    assert call("rename", "fused", "merged") == 0
    assert capsys.readouterr().out == "renamed: fused -> merged (2 entries)\n"
    found = Baselines.read(path).find("merged", MACHINE, WORKLOAD)
    assert found == replace(entry(), name="merged")
    for old, new, problem in (("none", "x", "is called 'none'"), ("old", "bf16", "already")):
        with pytest.raises(UsageError, match=problem):
            call("rename", old, new)


# Adopting what nobody vouches for


def offered(path: Path, *entries: Entry) -> Path:
    """A file as another machine's job makes it."""
    file = path.parent / "recorded.json"
    file.unlink(missing_ok=True)
    Baselines(file).record(*entries)
    return file


def test_adopt_adds_another_machine_and_replaces_it(path: Path, capsys: Output) -> None:
    before = Baselines.read(path).entries
    there: dict[str, Scalar] = {"gpu": "b GPU"}
    assert call("adopt", offered(path, entry(machine=there), entry("bf16", machine=there))) == 0
    assert capsys.readouterr().out == "b GPU: added: bf16\nb GPU: added: fused\n"
    after = Baselines.read(path).entries
    assert [one for one in after if one.machine != there] == before
    assert call("adopt", "recorded.json") == 0
    assert capsys.readouterr().out == "nothing new\n"
    assert call("adopt", offered(path, entry(ratio=0.25, machine=there))) == 0
    assert capsys.readouterr().out == "b GPU: replaced: fused\n"
    found = Baselines.read(path).find("fused", there, WORKLOAD)
    assert found is not None
    assert found.ratio == pytest.approx(0.25)


def test_adopt_takes_new_names_only_when_told_to(path: Path) -> None:
    file = offered(path, entry("new", recordings=(recording(phases={"unknown": 1.0}),)))
    with pytest.raises(UsageError, match="new: is not stored yet; --new adopts it"):
        call("adopt", file)
    assert call("adopt", "--new", file) == 0
    assert "new" in Baselines.read(path).names


LONG = "x" * 1000


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"machine": {"cpu": LONG}}, "machine: 'cpu'"),
        ({"machine": {"cpu": "\x1b[31m"}}, "machine: 'cpu'"),
        ({"machine": {"\x1b[31m": 1}}, r"machine: '\\x1b\[31m'"),
        ({"machine": {str(number): number for number in range(30)}}, "machine: must hold at most"),
        ({"workload": {"tokens": LONG}}, "workload: 'tokens'"),
        ({"code": LONG}, "code"),
        ({"reference": "a\nb"}, "reference"),
        ({"recordings": (recording(recorded={"date": "a\nb"}),)}, "recorded: 'date'"),
        ({"recordings": (recording(server=LONG),)}, "process: 'server'"),
        ({"recordings": (recording(phases={"unknown": 0.5}),)}, "phases: must be of device"),
        ({"name": "mine"}, "mine: is not stored yet"),
    ],
)
def test_adopt_refuses_what_is_unknown_and_changes_nothing(
    path: Path, fields: dict[str, Any], problem: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(UsageError, match=problem):
        call("adopt", offered(path, entry(**{"machine": {"gpu": "b"}, **fields})))
    assert path.read_bytes() == before


def test_adopt_refuses_names_without_end_and_too_many_processes(path: Path) -> None:
    with pytest.raises(UsageError, match="name: must be at most"):
        call("adopt", "--new", offered(path, entry(LONG)))
    file = offered(path, entry())
    line = next(one for one in file.read_text().splitlines() if "subject_s" in one)
    file.write_text(file.read_text().replace(line, f"{line}\n" * (MOST_PROCESSES + 1)))
    with pytest.raises(UsageError, match=f"fused: processes: more than {MOST_PROCESSES}"):
        call("adopt", file)


def test_adopt_refuses_several_machines_and_none(path: Path) -> None:
    with pytest.raises(UsageError, match="must be of one machine, got 2"):
        call("adopt", offered(path, entry(), entry(machine=OTHER)))
    with pytest.raises(UsageError, match="must be of one machine, got 0"):
        call("adopt", offered(path))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text(json.dumps({"schema": 6, "entries": [1]})),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text(" " * (MOST_ADOPTED_BYTES + 1)),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/etc/passwd"),
        os.mkfifo,
        lambda path: None,
    ],
    ids=["damaged", "misshapen", "binary", "huge", "folder", "link", "pipe", "missing"],
)
def test_adopt_refuses_what_is_no_such_file(path: Path, make: Callable[[Path], object]) -> None:
    before = path.read_bytes()
    make(path.parent / "offered.json")
    with pytest.raises(UsageError, match=r"^offered\.json: "):
        call("adopt", "offered.json")
    assert path.read_bytes() == before


def test_what_is_shown_is_the_stored(path: Path, golden: Golden, capsys: Output) -> None:
    assert call("list") == 0
    golden("baselines-list.txt", capsys.readouterr().out)
    Baselines(path).record(
        entry(ratio=1.8), entry("new", 2.0), entry("bf16", 3.0, workload={}, reference="memory")
    )
    assert call("diff") == 0
    golden("baselines-diff.txt", capsys.readouterr().out)
