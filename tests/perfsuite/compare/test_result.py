from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from perfsuite.compare.result import Comparison, moved
from perfsuite.gate.outcome import Status
from perfsuite.gate.reported import Subject
from perfsuite.render.markdown import markdown
from perfsuite.schema import decode
from tests.perfsuite.conftest import plain_json, shown

Golden = Callable[[str, str], None]

UNKNOWN: dict[str, Any] = {"change": None, "change_interval": None}
COMPARED = [Status.REGRESSION, Status.PASS, Status.IMPROVED, Status.INCONCLUSIVE]


def outcome(verdict: str = "regression", name: str = "fused", /, **changed: Any) -> dict[str, Any]:
    """As a run of pytest reports it."""
    return {
        "name": name,
        "test": "tests/test_it.py::test_it",
        "verdict": verdict,
        "failed": verdict == "regression",
        "reason": "the reason",
        "change": 1.1,
        "change_interval": [1.08, 1.12],
        "margin": 0.05,
        "latency_s": 0.011,
        "base_s": 0.010,
        "phases": {"device": 0.9, "trusted": 0.2},
        "base_phases_s": {"device": 0.008, "trusted": 0.002},
        "processes": 12,
        "looks": 2,
        "disturbed_rounds": 0,
        "samples": [{"log_ratio": 0.095, "seconds": 0.011, "reference_seconds": 0.010}] * 12,
        **changed,
    }


ONE_SIDED = {
    **outcome("one-sided", "int8", reason="only head has it"),
    **dict.fromkeys(("change", "change_interval", "margin", "latency_s", "base_s")),
}


def read(content: dict[str, Any]) -> Subject:
    return decode(content, Subject, "report.json")


def comparison(*outcomes: dict[str, Any], **rest: Any) -> Comparison:
    return Comparison("head 0123456789", "BASE main (abc)", list(map(read, outcomes)), **rest)


def text(found: Comparison) -> str:
    return shown(found.blocks(), width=None)


def test_a_red_benchmark_shows_its_change_and_what_moved() -> None:
    lines = text(comparison(outcome(), ONE_SIDED)).splitlines()
    assert lines[0] == "head 0123456789 against BASE main (abc)"
    row = "fused      regression  10.0 ms  11.0 ms  +10.0% [+8.0%, +12.0%]  device +1.00 ms"
    assert row in lines
    assert "int8: not compared: only head has it" in lines
    assert "pairs of fresh processes: 12 in 2 looks (fused)" in lines
    assert any(line.startswith("margin 5.0%") for line in lines)


def test_what_moved_is_told_in_the_direction_of_the_change() -> None:
    faster = outcome("improved", change=0.9, change_interval=[0.88, 0.92])
    faster["phases"] = {"device": 0.9, "trusted": 0.1}
    assert "trusted -1.00 ms" in text(comparison(faster))
    assert "device" not in text(comparison(outcome("pass")))  # a green one claims no move
    assert moved(read(outcome(phases={}))) is None


def test_an_open_verdict_gives_its_reason_and_what_was_left_out() -> None:
    told = text(comparison(outcome("inconclusive", disturbed_rounds=16, **UNKNOWN)))
    assert "fused: the reason" in told
    assert "rounds left out, others used the machine: fused 16" in told


def test_margins_that_differ_are_told_with_whose_they_are() -> None:
    told = text(comparison(outcome(), outcome("regression", "other", margin=0.2)))
    assert "margin 5.0% (fused)" in told
    assert "margin 20.0% (other)" in told


@pytest.mark.parametrize("verdict", COMPARED)
@pytest.mark.parametrize("name", ["fused", "a|b", "a\nb", "a\\|b"])
def test_markdown_is_a_table_whatever_the_names_are(verdict: Status, name: str) -> None:
    lines = markdown(comparison(outcome(verdict, name), ONE_SIDED).blocks()).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 3
    assert {row.replace("\\\\", "").replace("\\|", "").count("|") for row in rows} == {8}
    assert verdict.value in rows[-1]
    assert len(text(comparison(outcome(verdict, name))).splitlines()) == len(
        text(comparison(outcome(verdict))).splitlines()
    )


def test_json_holds_samples_and_no_nan() -> None:
    found = comparison(
        outcome("inconclusive", **UNKNOWN), ONE_SIDED, machine={"cpu": "x"}, command="c"
    )
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    fused, absent = told["benchmarks"]
    assert (told["base"], told["machine"], told["command"]) == (
        "BASE main (abc)",
        {"cpu": "x"},
        "c",
    )
    assert fused["change"] is None
    assert len(fused["samples"]) == 12
    assert fused["head_phases_s"]["device"] == pytest.approx(0.009)
    assert fused["moved_most"] is None
    assert absent == {"name": "int8", "verdict": "not compared", "problem": "only head has it"}


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["pass", "improved"], 0),
        (["pass", "inconclusive"], 3),
        (["regression", "inconclusive"], 1),
    ],
)
def test_the_exit_status_is_that_of_the_worst(verdicts: list[str], status: int) -> None:
    outcomes = [*map(outcome, verdicts), ONE_SIDED]
    assert comparison(*outcomes).exit_status == status
    broken = comparison(*outcomes, broken={"tests/test_it.py::test_it": "KeyError: 'x'"})
    assert broken.exit_status == (1 if status == 1 else 2)
    assert "tests/test_it.py::test_it: KeyError: 'x'" in text(broken)


def test_what_is_shown_is_the_stored(golden: Golden) -> None:
    found = comparison(
        outcome(),
        outcome("pass", "a|b <c>", change=1.001, change_interval=[0.99, 1.01], looks=1),
        outcome("improved", "faster", change=0.9, change_interval=[0.88, 0.92], margin=0.2),
        outcome("inconclusive", "open", disturbed_rounds=16, **UNKNOWN),
        ONE_SIDED,
        broken={"tests/test_it.py::test_it": "KeyError: 'x'"},
        machine={"cpu": "Abacus 9"},
        command="perfsuite compare main",
    )
    golden("comparison.txt", text(found))
    golden("comparison.md", markdown(found.blocks()))
    golden("comparison.json", plain_json(found.as_json()))
