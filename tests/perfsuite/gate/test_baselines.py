from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from perfsuite.errors import UsageError
from perfsuite.files import locked
from perfsuite.gate import baselines
from perfsuite.gate.baselines import (
    LEAST_PROCESSES,
    MOST_PROCESSES,
    TABS,
    Baselines,
    Entry,
    Plan,
    Recording,
    Scalar,
    parse,
)
from perfsuite.gate.process import Process

MACHINE: dict[str, Scalar] = {"cpu": "one", "threads": 1, "gpu": None}
WORKLOAD: dict[str, Scalar] = {"model": "tiny", "tokens": 64}
PLAN = Plan(loops=100, reference_loops=3, runs=2, rounds=10, discarded=1)
RECORDED = {"commit": "0123456789ab", "date": "2026-01-02T03:04", "python": "3.11.7"}
OLD = {
    "schema": 5,
    "portable": {"fused": 2.0},
    "profiles": [
        {
            "machine": MACHINE,
            "workload": WORKLOAD,
            "recorded": {"commit": "abc", "date": "2026-01-01"},
            "entries": {
                "fused": {
                    "margin": 0.05,
                    "ratio": 2.0,
                    "processes": [
                        {
                            "rounds": [0.1, math.log(1.25), 0.6],
                            "latency_ms": 10.0,
                            "yardstick_ms": 8.0,
                            "phases": {"device": 1.25},
                        }
                    ]
                    * 3,
                }
            },
        }
    ],
}


def process(ratio: float = 1.25, **fields: Any) -> Process:
    given = {
        "log_ratio": math.log(ratio),
        "subject_s": 0.01,
        "reference_s": 0.008,
        "server": "a",
        "phases": {"device": 0.5},
        "rounds": 10,
    }
    return Process(**{**given, **fields})


def entry(name: str = "fused", *, processes: int = 4, **fields: Any) -> Entry:
    given: dict[str, Any] = {
        "machine": MACHINE,
        "workload": WORKLOAD,
        "reference": "own",
        "code": "c0de",
        "plan": PLAN,
        "quantile": None,
        "recordings": (Recording(RECORDED, (process(),) * processes),),
    }
    return Entry(name, **{**given, **fields})


def recordings(*counts: int) -> tuple[Recording, ...]:
    """So many processes each, of commits "0", "1" and so on."""
    return tuple(
        Recording({"commit": str(number)}, (process(),) * count)
        for number, count in enumerate(counts)
    )


def slower(name: str) -> Entry:
    """An entry with figures of its own, as everything that is really measured has them."""
    return entry(name, recordings=(Recording(RECORDED, (process(1.5, subject_s=0.012),) * 3),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "baselines.json"


def tab(name: str) -> int:
    return baselines._tab(baselines._key(name, MACHINE, WORKLOAD))


def test_what_is_recorded_is_read_again(path: Path) -> None:
    stored = Baselines(path)
    mine = entry(
        quantile=0.95,
        recordings=(
            Recording(RECORDED, (process(peak_bytes=12345678, disturbed=2),) * 3),
            Recording({}, (process(server=""),)),
        ),
    )
    stored.record(mine)
    again = Baselines.read(path)
    assert again.entries == stored.entries == [mine]
    assert again.find("fused", MACHINE, WORKLOAD) == mine
    assert again.find("fused", {"cpu": "one", "threads": 1}, WORKLOAD) == mine
    assert again.find("fused", {**MACHINE, "cpu": "other"}, WORKLOAD) is None
    assert again.find("fused", MACHINE, {}) is None
    assert again.names == {"fused"}
    assert again.entries[0].ratio == pytest.approx(1.25)
    assert again.entries[0].subject_s == 0.01


@pytest.mark.parametrize("seconds", [3.1234e-8, 5e-8, 1.23456e-6, 0.0321, 1.5, 4321.5])
@pytest.mark.parametrize("ratio", [1.2345e-7, 0.98765, 1.00012, 31234.0])
def test_figures_keep_their_significant_digits(path: Path, seconds: float, ratio: float) -> None:
    fast = process(ratio, subject_s=seconds, reference_s=seconds / ratio, phases={"one": ratio})
    Baselines(path).record(entry(recordings=(Recording({}, (fast,) * 3),)))
    (found,) = Baselines.read(path).entries
    (read, *_) = found.processes
    assert read.subject_s == pytest.approx(seconds, rel=1e-5)
    assert read.reference_s == pytest.approx(seconds / ratio, rel=1e-5)
    assert math.exp(read.log_ratio) == pytest.approx(ratio, rel=1e-5)
    assert read.phases["one"] == pytest.approx(ratio, rel=1e-5)


def test_writing_what_was_read_changes_no_byte(path: Path) -> None:
    third = process(1 / 3, subject_s=1 / 7, reference_s=3 / 7)
    Baselines(path).record(entry(recordings=(Recording(RECORDED, (third,) * 3),)), entry("bf16"))
    before = path.read_bytes()
    Baselines.read(path).record()
    assert path.read_bytes() == before


def test_nothing_derived_is_stored(path: Path) -> None:
    Baselines(path).record(entry())
    text = path.read_text()
    assert not any(word in text for word in ("margin", "portable", "median"))


def test_a_diff_has_a_line_for_each_process(path: Path) -> None:
    Baselines(path).record(entry())
    lines = [line for line in path.read_text().splitlines() if "subject_s" in line]
    assert len(lines) == 4
    assert all(json.loads(line.rstrip(","))["reference_s"] == 0.008 for line in lines)


def test_a_file_that_was_formatted_otherwise_is_read(path: Path) -> None:
    Baselines(path).record(entry(), entry("bf16"))
    text = json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True)
    assert {one.name for one in parse(text, "f")} == {"fused", "bf16"}


def test_a_file_that_does_not_exist_is_empty(path: Path) -> None:
    assert Baselines.read(path).entries == []


# What cannot be judged


@pytest.mark.parametrize(
    ("damaged", "field"),
    [
        ({"subject_s": 0.0}, r"recordings\[0\].processes\[1\].subject_s"),
        ({"subject_s": -1.0}, "subject_s"),
        ({"subject_s": math.nan}, "subject_s"),
        ({"subject_s": math.inf}, "subject_s"),
        ({"reference_s": 0.0}, "reference_s"),
        ({"reference_s": math.nan}, "reference_s"),
        ({"log_ratio": math.nan}, "ratio"),
        ({"log_ratio": math.inf}, "ratio"),
        ({"log_ratio": -math.inf}, "ratio"),
        ({"log_ratio": 1e6}, "ratio"),
        ({"phases": {"device": -0.1}}, "phases.device"),
        ({"phases": {"device": math.nan}}, "phases.device"),
        ({"phases": {"other": 0.1}}, "different phases"),
        ({"peak_bytes": 0}, "peak_bytes"),
        ({"rounds": -1}, "rounds"),
    ],
)
def test_values_that_cannot_be_judged_are_refused_before_anything_is_written(
    path: Path, damaged: dict[str, Any], field: str
) -> None:
    stored = Baselines(path)
    stored.record(entry("bf16"))
    before = path.read_bytes()
    bad = entry(recordings=(Recording(RECORDED, (process(), process(**damaged), process())),))
    for write in (stored.record, stored.extend):
        with pytest.raises(UsageError, match=f"fused: not recorded: .*{field}"):
            write(bad)
    assert path.read_bytes() == before
    assert stored.names == {"bf16"}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"processes": LEAST_PROCESSES - 1}, "processes: 2 are too few"),
        ({"recordings": ()}, "processes: 0 are too few"),
        (
            {"recordings": recordings(3, 0)},
            r"recordings\[1\].processes: expected `array` of length >= 1",
        ),
        ({"name": "two\nlines"}, "printable"),
        ({"name": ""}, "printable"),
        ({"machine": {"cpu": ["a list"]}}, "machine.cpu"),
        ({"workload": {"share": math.nan}}, "workload.share"),
        ({"quantile": 1.0}, "quantile"),
        ({"plan": structs.replace(PLAN, loops=0)}, "plan.loops"),
        ({"recordings": (Recording({"commit": 1}, (process(),) * 3),)}, "recorded.commit"),  # type: ignore[dict-item]
    ],
)
def test_entries_that_cannot_be_judged_are_refused(
    path: Path, fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        Baselines(path).record(entry("bf16"), entry(**fields))
    assert not path.exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        Baselines(tmp_path / "none" / "baselines.json").record(entry())


# Damage


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "damaged: .*line 1 column 2"),
        ("[" * 100_000, "damaged"),
        ("[]", "schema"),
        ('{"schema": "6"}', "schema"),
        ('{"schema": 4}', "schema 4 is of an older version.*--update-baselines"),
        ('{"schema": 99}', "schema 99 is of a newer version"),
        ('{"schema": 6}', "entries: is missing"),
        ('{"schema": 6, "entries": [{}]}', r"entries\[0\]: belongs to no benchmark"),
        ('{"schema": 6, "entries": [7]}', r"entries\[0\]: expected"),
        ('{"schema": 6, "entries": {}}', "entries: expected `array`"),
        ('{"schema": 6, "schema": 6}', "'schema' is there twice"),
        ('{"schema": 5}', "profiles: is missing"),
        ('{"schema": 5, "profiles": [{}], "portable": {}}', r"profiles\[0\].machine: is missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_fault(
    path: Path, text: str, problem: str
) -> None:
    path.write_text(text)
    with pytest.raises(UsageError, match=problem) as raised:
        Baselines.read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('"subject_s": 0.01', '"subject_s": "fast"', r"recordings\[0\].processes\[0\].subject_s"),
        ('"subject_s": 0.01', '"subject_s": 1e999', "subject_s"),
        ('"subject_s": 0.01', '"other": 0.01', "subject_s: is missing"),
        ('"rounds": 10', '"rounds": 1.5', "rounds"),
        ('"rounds": 10', '"rounds": true', "rounds"),
        ('"reference": "own"', '"reference": 7', "reference"),
        ('"code": "c0de"', '"code": 1', "code: expected `str"),
        ('"of": "fused"', '"of": "other"', r"recordings\[0\].of"),
        ('"of": "fused"', '"off": "fused"', r"recordings\[0\].of: is missing"),
        ('"recorded": {', '"noted": {', "recordings: are missing"),
        ('"threads": 1', '"threads": [1]', "machine.threads"),
        ('{"model": "tiny", "tokens": 64}', "[]", "workload: expected `object`"),
    ],
)
def test_damage_is_told_with_benchmark_and_place(
    path: Path, old: str, new: str, place: str
) -> None:
    Baselines(path).record(entry())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=f"{path}: benchmark 'fused': .*{place}"):
        Baselines.read(path)


def test_an_entry_that_is_there_twice_is_told(path: Path) -> None:
    Baselines(path).record(entry())
    content = json.loads(path.read_text())
    content["entries"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="benchmark 'fused': is there twice"):
        Baselines.read(path)


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        Baselines.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        Baselines.read(path)


# The schema before


def test_the_schema_before_is_read_and_written_as_this_one(path: Path) -> None:
    path.write_text(json.dumps(OLD))
    stored = Baselines.read(path)
    (found,) = stored.entries
    expected = Process(math.log(1.25), 0.01, 0.008, phases={"device": 1.25}, rounds=3)
    assert found == Entry(
        "fused",
        MACHINE,
        WORKLOAD,
        "own",
        "",
        None,
        None,
        (Recording({"commit": "abc", "date": "2026-01-01"}, (expected,) * 3),),
    )
    stored.extend(entry(processes=3))
    (extended,) = Baselines.read(path).entries
    assert json.loads(path.read_text())["schema"] == 6
    assert len(extended.processes) == 6
    assert (extended.code, extended.plan) == ("c0de", PLAN)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", []),
        ("rounds", [0.7, None]),
        ("latency_ms", -1.0),
        ("latency_ms", [8.0]),
        ("yardstick_ms", 0),
        ("phases", {"device": "long"}),
        ("phases", {"other": 1.25}),
    ],
)
def test_damage_in_the_schema_before_is_told(path: Path, field: str, value: object) -> None:
    content = json.loads(json.dumps(OLD))
    content["profiles"][0]["entries"]["fused"]["processes"][1][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="fused"):
        Baselines.read(path)


# Several recordings, machines and names


def test_an_extension_adds_a_recording(path: Path) -> None:
    stored = Baselines(path)
    stored.extend(entry(recordings=recordings(3)))
    stored.extend(
        entry(recordings=(Recording({"commit": "new"}, (process(2.0),)),)),
    )
    (found,) = Baselines.read(path).entries
    assert [one.recorded["commit"] for one in found.recordings] == ["0", "new"]
    assert [len(one.processes) for one in found.recordings] == [3, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {"code": "other"},
        {"reference": "memory"},
        {"quantile": 0.9},
        {"recordings": (Recording({}, (process(phases={}),) * 3),)},
    ],
)
def test_other_code_does_not_extend(path: Path, fields: dict[str, Any]) -> None:
    stored = Baselines(path)
    stored.record(entry())
    with pytest.raises(UsageError, match=r"fused: not extended: .*--update-baselines"):
        stored.extend(entry(**fields))
    assert Baselines.read(path).entries == [entry()]


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ([120, 120, 48], {"0": 120, "1": 120, "2": 48}),
        ([120, 120, 60, 60], {"0": 120, "2": 60, "3": 60}),
        ([36] * 10, {"0": 36, **{str(number): 36 for number in range(3, 10)}}),
        ([288, 72], {"0": 216, "1": 72}),
        ([288, 288], {"0": 144, "1": 144}),
        ([28, 600], {"0": 28, "1": 260}),
        ([900], {"0": 288}),
    ],
)
def test_the_oldest_recording_stays_and_the_next_oldest_go(
    path: Path, counts: Sequence[int], kept: dict[str, int]
) -> None:
    stored = Baselines(path)
    for one in recordings(*counts):
        stored.extend(entry(recordings=(one,)))
    (found,) = Baselines.read(path).entries
    assert {one.recorded["commit"]: len(one.processes) for one in found.recordings} == kept
    assert len(found.processes) <= MOST_PROCESSES


def test_other_machines_give_a_portable_ratio(path: Path) -> None:
    stored = Baselines(path)
    for number, ratio in enumerate((1.0, 2.0, 8.0)):
        stored.record(
            entry(
                machine={"cpu": str(number)},
                recordings=(Recording({}, (process(ratio),) * 3),),
                reference="own" if number else "memory",
            )
        )
    stored.record(entry(workload={}, recordings=(Recording({}, (process(100),) * 3),)))
    assert [one.machine["cpu"] for one in stored.others("fused", WORKLOAD)] == ["0", "1", "2"]
    assert stored.portable_ratio("fused", WORKLOAD) == pytest.approx(2.0)
    assert stored.portable_ratio("fused", WORKLOAD, "own") == pytest.approx(4.0)
    assert stored.portable_ratio("fused", {"model": "other"}) is None
    assert stored.portable_ratio("none", WORKLOAD) is None


def test_a_machine_that_differs_is_told_by_its_fields(path: Path) -> None:
    stored = Baselines(path)
    stored.record(entry(), entry(machine={"cpu": "two", "threads": 2}))
    found = stored.closest("fused", {"cpu": "one", "threads": 4, "torch": "2"}, {"tokens": 64})
    assert found is not None
    assert found[0].machine == MACHINE
    assert found[1] == ["machine.threads", "machine.torch", "workload.model"]
    assert stored.closest("none", MACHINE, WORKLOAD) is None


def test_a_benchmark_is_renamed_with_all_its_recordings(path: Path) -> None:
    stored = Baselines(path)
    other = entry(machine={"cpu": "two"}, recordings=recordings(3, 2))
    stored.record(entry(), other, entry("bf16"))
    assert stored.rename("fused", "merged") == 2
    again = Baselines.read(path)
    assert again.names == {"merged", "bf16"}
    assert again.find("merged", {"cpu": "two"}, WORKLOAD) == replace(other, name="merged")
    for old, new in (("fused", "x"), ("merged", "bf16"), ("merged", "a\nb")):
        with pytest.raises(UsageError):
            stored.rename(old, new)
    assert Baselines.read(path).entries == again.entries


def test_benchmarks_are_removed(path: Path) -> None:
    stored = Baselines(path)
    stored.record(entry(), entry(machine={"cpu": "two"}), entry("bf16"))
    assert stored.remove({"fused", "unknown"}) == 2
    assert Baselines.read(path).names == {"bf16"}


# Two at once

_RECORD = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from test_baselines import entry
from perfsuite.gate.baselines import Baselines
stored = Baselines.read(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    stored.record(entry(f"{sys.argv[2]}{number}"))
    stored.extend(entry("both"))
"""


def test_two_processes_that_record_at_once_lose_nothing(path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _RECORD, str(path), name, str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in running:
        one.communicate("go\n", timeout=60)
        assert one.returncode == 0
    found = Baselines.read(path)
    assert found.names == {"both", *(f"{name}{number}" for name in "ab" for number in range(20))}
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_record_keeps_what_others_wrote_after_it_was_read(path: Path) -> None:
    one, other = Baselines.read(path), Baselines.read(path)
    one.record(entry("a"))
    other.record(entry("b"))
    assert Baselines.read(path).names == other.names == {"a", "b"}


def test_a_lock_that_others_hold_is_waited_for_and_then_told(path: Path) -> None:
    with locked(path):
        began = time.monotonic()
        with (
            pytest.raises(UsageError, match="another process has been writing it"),
            locked(path, timeout_s=0.1),
        ):
            pass
        assert time.monotonic() - began >= 0.1
    with locked(path, timeout_s=0):
        pass


# Merging, by git itself

_GIT = ["git", "-c", "user.name=one", "-c", "user.email=one@example.org"]


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_GIT, "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )


Change = Callable[[Baselines], object]


def merged(path: Path, base: Change, ours: Change, theirs: Change) -> bool:
    """Have git merge two branches that changed the file, and say whether it could."""
    root = path.parent
    git(root, "init", "--quiet", "--initial-branch=main")
    for branch, change in (("main", base), ("ours", ours), ("theirs", theirs)):
        git(root, "switch", "--quiet", "main")
        git(root, "switch", "--quiet", "-c", branch)
        change(Baselines.read(path))
        git(root, "add", "--all")
        assert git(root, "commit", "--quiet", "-m", branch).returncode == 0
    return git(root, "merge", "--quiet", "--no-edit", "ours").returncode == 0


def of_tab(wanted: int, but: str = "") -> str:
    """A benchmark that stands before this tab."""
    numbers = range(1_000_000)
    return next(name for n in numbers if tab(name := f"test[{n}]") == wanted and name != but)


@pytest.mark.parametrize(
    ("one", "other"),
    [(0, 1), (1, 0), (7, 8), (500, 501), (TABS - 2, TABS - 1), (0, TABS - 1), (300, 900)],
)
@pytest.mark.parametrize("stored", [(), ("first", "second", "third")], ids=["empty", "filled"])
def test_branches_that_record_different_benchmarks_merge(
    path: Path, one: int, other: int, stored: tuple[str, ...]
) -> None:
    names = of_tab(one), of_tab(other)
    assert merged(
        path,
        lambda file: file.record(*map(entry, stored)),
        lambda file: file.record(entry(names[0])),
        lambda file: file.record(entry(names[1])),
    )
    assert Baselines.read(path).names == {*stored, *names}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda file: file.record(entry("b", code="x")), lambda file: file.record(entry("c", code="y"))),
        (lambda file: file.extend(entry("b")), lambda file: file.remove({"c"})),
        (lambda file: file.rename("a", "A"), lambda file: file.record(entry("new"), entry("newer"))),
        (lambda file: file.extend(entry("a")), lambda file: file.record(entry("a", machine={}))),
        (
            lambda file: file.record(entry("new", machine={"cpu": "x"})),
            lambda file: file.record(entry("new", machine={"cpu": "y"})),
        ),
    ],
    ids=["recorded", "removed", "renamed", "another machine", "two machines"],
)  # fmt: skip
def test_branches_that_change_different_entries_merge(
    path: Path, ours: Change, theirs: Change
) -> None:
    def base(file: Baselines) -> None:
        file.record(*map(entry, "abc"))

    assert merged(path, base, ours, theirs)
    both = path.read_bytes()
    expected = Baselines(path)
    path.unlink()
    base(expected)
    ours(expected)
    theirs(expected)
    assert path.read_bytes() == both


def test_a_conflict_is_named_and_keeping_both_sides_resolves_it(path: Path) -> None:
    first = of_tab(99)
    second = of_tab(99, but=first)
    assert not merged(
        path,
        lambda file: file.record(),
        lambda file: file.record(entry(first)),
        lambda file: file.record(slower(second)),
    )
    text = path.read_text()
    line = text.splitlines().index("<<<<<<< HEAD") + 1
    problem = f"has merge conflict markers at line {line}: .*both sides"
    with pytest.raises(UsageError, match=problem):
        Baselines.read(path)
    with pytest.raises(UsageError, match=problem):
        Baselines(path).record(entry("third"))
    kept = [one for one in text.splitlines() if one[:7] not in ("<<<<<<<", "=======", ">>>>>>>")]
    path.write_text("\n".join(kept))
    assert Baselines.read(path).names == {first, second}


def test_branches_that_both_make_the_file_merge_by_keeping_both_sides(path: Path) -> None:
    path.parent.joinpath("other.txt").write_text("")
    assert not merged(
        path,
        lambda file: None,
        lambda file: file.record(entry("a")),
        lambda file: file.record(slower("b")),
    )
    text = path.read_text().splitlines()
    kept = [one for one in text if one[:7] not in ("<<<<<<<", "=======", ">>>>>>>")]
    path.write_text("\n".join(kept))
    assert Baselines.read(path).names == {"a", "b"}


def test_one_pair_of_names_in_a_thousand_shares_a_tab() -> None:
    tabs = [tab(f"tests/test_file.py::test_it[{number}]") for number in range(400)]
    pairs = 400 * 399 / 2
    same = sum(one == other for n, one in enumerate(tabs) for other in tabs[:n])
    assert same / pairs == pytest.approx(1 / TABS, rel=0.3)


@pytest.mark.parametrize("file", ["perfsuite", "examples/gate-your-own"])
def test_the_files_of_this_repository_are_as_they_would_be_written(path: Path, file: str) -> None:
    kept = (Path(__file__).parents[3] / file / "baselines.json").read_bytes()
    path.write_bytes(kept)
    Baselines.read(path).record()
    assert path.read_bytes() == kept
