from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.gate import views
from perfsuite.gate.inference import Judgement, Verdict
from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.process import Process
from perfsuite.gate.reported import reported
from perfsuite.render.blocks import Note
from perfsuite.render.markdown import markdown
from perfsuite.render.terminal import lines
from perfsuite.statistics import Estimate
from tests.perfsuite.conftest import plain_json

CHANGE = Estimate(1.102, 1.08, 1.125)
Golden = Callable[[str, str], None]


def outcome(status: Status = Status.REGRESSION, **fields: Any) -> Outcome:
    process = Process(
        math.log(2.2), 412e-9, 187e-9, "a", {"parse": 1.5, "rest": 0.7}, rounds=9, disturbed=1
    )
    given: Mapping[str, Any] = {
        "name": "mine",
        "node": "tests/test_a.py::test_mine[a b]",
        "reason": "the interval lies above the margin",
        "processes": [process] * 12,
        "reference": "interpreter",
        "judgement": Judgement(Verdict.REGRESSION, CHANGE, 0.02, 12, "why"),
        "stored_ratio": 2.0,
        "stored_phases": {"parse": 1.3, "rest": 0.7},
        "looks": 2,
    }
    return Outcome(status=status, **{**given, **fields})


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    return lines([views.table(list(map(reported, outcomes)))])


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    return markdown([views.table(list(map(reported, outcomes)))])


NOT_JUDGED: Mapping[str, Any] = {"processes": [], "judgement": None, "stored_phases": {}}


def test_a_failure_says_what_was_measured_and_what_can_be_done() -> None:
    assert views.failure(outcome()).split("\n") == [
        "mine: regression: the interval lies above the margin",
        "change: +10.2% [+8.0%, +12.5%], margin 2.0%",
        "measured: 2.2 x its reference (interpreter), stored 2; 412 ns",
        "samples: 12 fresh processes in 2 looks, 12 rounds left out as disturbed",
        "grew most: parse, from 1.300 to 1.500 of the reference's time (+0.200)",
        "reproduce: pytest 'tests/test_a.py::test_mine[a b]'",
        "accept: pytest 'tests/test_a.py::test_mine[a b]' --update-baselines",
    ]


def test_a_failed_comparison_names_the_other_revision() -> None:
    text = views.failure(outcome(base_s=374e-9), "origin/main && x")
    assert "measured: 412 ns, base 374 ns" in text
    assert text.endswith("--perf-against 'origin/main && x'")
    assert "--update-baselines" not in text


def test_a_missing_baseline_says_how_it_is_recorded() -> None:
    text = views.failure(outcome(Status.NO_BASELINE, reason="no baseline in f", **NOT_JUDGED))
    assert text.split("\n") == [
        "mine: no-baseline: no baseline in f",
        "record: pytest 'tests/test_a.py::test_mine[a b]' --update-baselines",
    ]


@given(
    status=st.sampled_from(Status),
    reason=st.text(),
    change=st.sampled_from([CHANGE, Estimate(math.nan, 0.0, math.inf), None]),
    measured=st.booleans(),
    against=st.sampled_from([None, "main"]),
)
def test_whatever_happened_is_told_in_ten_lines_at_most(
    status: Status, reason: str, change: Estimate | None, measured: bool, against: str | None
) -> None:
    judgement = None if change is None else Judgement(Verdict.PASS, change, 0.1, 3, "")
    found = outcome(status, reason=reason, judgement=judgement)
    if not measured:
        found.processes = []
    assert len(views.failure(found, against).splitlines()) <= 10
    assert len(summary([found, found])) == 3
    assert len(as_markdown([found]).splitlines()) == 5
    assert len(re.split(r"[\r\n]", views.annotation(found))) == 1


def test_a_summary_has_a_line_for_each_below_the_names_of_its_columns() -> None:
    passed = outcome(Status.PASS, name="another of a longer name", throughput=20.0)
    head, first, second, third = summary(
        [outcome(), passed, outcome(Status.NOT_MEASURED, reason="not on Tuesdays", **NOT_JUDGED)]
    )
    assert head.split() == ["benchmark", "verdict", "latency", "ratio", "change"]
    assert re.split(r"  +", first) == [
        "mine",
        "regression",
        "412 ns",
        "2.2",
        "+10.2% [+8.0%, +12.5%], margin 2.0%",
    ]
    assert "412 ns (4.854e+07/s)" in second
    assert re.split(r"  +", third) == ["mine", "not-measured", "-", "-", "not on Tuesdays"]
    assert first.index("regression") == second.index("pass") == head.index("verdict")


@pytest.mark.parametrize("status", [Status.INCONCLUSIVE, Status.EXTEND, Status.PORTABLE])
def test_what_the_change_does_not_say_is_said_beside_it(status: Status) -> None:
    _, line = summary([outcome(status, reason="because of that")])
    assert line.endswith("+10.2% [+8.0%, +12.5%], margin 2.0%; because of that")


def test_a_long_reason_is_cut_short() -> None:
    words = "Traceback (most recent call last):\n" + 500 * "  a frame\n"
    _, line = summary([outcome(Status.ONE_SIDED, reason=words, **NOT_JUDGED)])
    assert "Traceback (most recent call last): a frame a frame" in line
    assert len(line) < 400


def test_notes_are_told_once() -> None:
    noted = outcome(notes=["a tracer was switched off"])
    _, *notes = views.blocks([reported(noted), reported(noted)])
    assert notes == [Note("a tracer was switched off in the measured processes")]


@pytest.mark.parametrize("status", Status)
def test_markdown_has_a_row_with_a_sign_for_each(status: Status) -> None:
    text = as_markdown([outcome(status)])
    row = text.splitlines()[-1]
    assert row.startswith("| ")
    assert f"| mine | {status.value} | 412 ns | 2.2 | " in row
    green = status in (Status.PASS, Status.IMPROVED, Status.RECORDED)
    assert ("🔴" in row or "🟡" in row) is not green


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("a|b", r"a\|b"),
        ("a\nb", "a b"),
        ("a\\|b", r"a\\\|b"),
        ("test_a.py::test_it[<lambda>]", r"test_a.py::test_it[\<lambda>]"),
        ("*x* `y` __init__ _z", r"\*x\* \`y\` \_\_init\_\_ \_z"),
    ],
)
def test_a_name_stays_one_cell_and_shows_as_it_is(name: str, cell: str) -> None:
    row = as_markdown([outcome(name=name)]).splitlines()[-1]
    assert f"| {cell} | regression |" in row
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 7


def test_an_annotation_is_at_the_tests_file() -> None:
    failed = outcome(name="a%b\nc", failed=True)
    assert views.annotation(failed) == (
        "::error file=tests/test_a.py,title=latency regression::a%25b%0Ac: regression: the interval lies above "
        "the margin; +10.2%25 [+8.0%25, +12.5%25], margin 2.0%25"
    )
    strange = outcome(Status.INCONCLUSIVE, node="a,b:c.py::test_it")
    assert views.annotation(strange).startswith("::warning file=a%2Cb%3Ac.py,title=latency inc")


def test_what_is_shown_is_the_stored(golden: Golden) -> None:
    """Every status, once with a measurement and where there may be none without."""
    peak = Judgement(Verdict.PASS, Estimate(1.01, 0.99, 1.03), 0.05, 12, "why")
    outcomes = [
        outcome(status, name=status.value, notes=["a tracer was switched off"]) for status in Status
    ]
    outcomes += [
        outcome(Status.NO_BASELINE, name="no | <b>", reason="none in\nf", **NOT_JUDGED),
        outcome(Status.ONE_SIDED, name="other", node="t.py::t", reason="gone", **NOT_JUDGED),
        outcome(Status.PASS, name="work", throughput=1000, memory=peak, in_turn="aaaaaaa"),
        outcome(Status.REGRESSION, name="compared", base_s=374e-9, failed=True),
    ]
    subjects = list(map(reported, outcomes))
    golden("summary.txt", "\n".join([*lines(views.blocks(subjects)), ""]))
    golden("summary.md", markdown(views.blocks(subjects)))
    golden("failures.txt", "\n\n".join([*map(views.failure, outcomes), ""]))
    golden("against.txt", views.failure(outcomes[-1], "main") + "\n")
    golden("annotations.txt", "\n".join([*map(views.annotation, outcomes), ""]))
    golden("outcomes.json", plain_json([one.as_json(samples=one.failed) for one in outcomes]))
