from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest

from perfsuite.compare.comparing import Comparison, StageResult, exit_status
from perfsuite.compare.deciding import Rules
from perfsuite.compare.sides import Tree
from perfsuite.compare.telling import as_json, markdown, text
from perfsuite.forked.servers import Workload
from perfsuite.gate.deciding import Judgement, Verdict
from perfsuite.gate.looks import Decision
from perfsuite.gate.pairing import Replicate, Timed
from perfsuite.machine import fingerprint
from perfsuite.statistics import Estimate

COMPARISON = Comparison(
    Tree("head 0123456789", Path("/head")),
    Tree("BASE main (abcdef0123)", Path("/base")),
    Workload("tiny", 64, "cpu", 1),
    Rules(),
    Path("/scratch"),
)
SLOWER = Estimate(1.1, 1.08, 1.12)


def result(verdict: Verdict, change: Estimate = SLOWER, disturbed: int = 0) -> StageResult:
    judgement = Judgement(verdict, change, 0.05, 8, "the reason")
    replicates = [Replicate([0.1] * 5, 0.011, {}, disturbed)] * 8
    return StageResult(
        "fused",
        Decision(judgement, replicates, 1),
        head=[Timed(0.011, {"device": 0.009, "trusted": 0.002})] * 3,
        base=[Timed(0.010, {"device": 0.008, "trusted": 0.002})] * 3,
    )


ABSENT = StageResult("int8", problem="only head 0123456789 has it")


def test_a_red_stage_shows_its_change_and_what_moved() -> None:
    lines = text(COMPARISON, [result(Verdict.REGRESSION), ABSENT]).splitlines()
    assert lines[0].startswith("head 0123456789 against BASE main (abcdef0123): tiny, 64 tokens")
    row = "fused  regression  10.00 ms  11.00 ms  +10.0% [+8.0%, +12.0%]  device +1.00 ms"
    assert row in lines
    assert "int8: not compared: only head 0123456789 has it" in lines
    assert any(line.startswith("margin 5.0%") for line in lines)


def test_a_green_stage_claims_no_move() -> None:
    assert "device" not in text(COMPARISON, [result(Verdict.PASS)])


def test_an_open_verdict_gives_its_reason_and_what_was_left_out() -> None:
    told = text(COMPARISON, [result(Verdict.INCONCLUSIVE, Estimate(nan, 0.0, inf), disturbed=2)])
    assert "fused: the reason" in told
    assert "fused: 16 rounds left out" in told


@pytest.mark.parametrize("verdict", Verdict)
def test_markdown_is_a_table_with_a_sign(verdict: Verdict) -> None:
    lines = markdown(COMPARISON, [result(verdict)]).splitlines()
    (row,) = [line for line in lines if line.startswith("|") and "fused" in line]
    assert verdict.value in row
    assert {line.count("|") for line in lines if line.startswith("|")} == {8}


def test_json_holds_samples_and_no_nan() -> None:
    results = [result(Verdict.INCONCLUSIVE, Estimate(nan, 0.0, inf)), ABSENT]
    told = as_json(COMPARISON, results, fingerprint(1), "perfsuite compare main")
    fused, absent = json.loads(json.dumps(told, allow_nan=False))["stages"]
    assert fused["change"] is None
    assert len(fused["samples"]) == 8
    assert fused["head_phases_s"]["device"] == 0.009
    assert absent == {"name": "int8", "verdict": "not compared", "problem": ABSENT.problem}


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([Verdict.PASS, Verdict.IMPROVED], 0),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], 3),
        ([Verdict.REGRESSION, Verdict.INCONCLUSIVE], 1),
    ],
)
def test_the_exit_status_is_that_of_the_worst(verdicts: list[Verdict], status: int) -> None:
    results = [result(verdict) for verdict in verdicts]
    assert exit_status([*results, ABSENT]) == status
    broken = replace(ABSENT, broken=True)
    assert exit_status([*results, broken]) == (1 if status == 1 else 2)
