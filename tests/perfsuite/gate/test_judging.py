"""The gate on contenders with a clock of their own: what it does when the machine changes its speed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from perfsuite.errors import MeasurementError
from perfsuite.gate import verdicts
from perfsuite.gate.baselines import MOST_PROCESSES
from perfsuite.gate.deciding import Verdict
from perfsuite.gate.disturbance import Watch
from perfsuite.gate.judging import RECORDED_BATCHES, Gate, Settings
from perfsuite.gate.pairing import Contender, Open, Timed, run_all

PROCESSES = 3
PHASES = {"device": 0.75, "transport": 0.25}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "foreign_share", lambda self: 0.0)


def taking(seconds: Sequence[float]) -> Open:
    """What takes so long in each fresh process, the last one's time in all that follow."""
    left = list(seconds)

    @contextmanager
    def opened() -> Iterator[Contender]:
        now = left.pop(0) if len(left) > 1 else left[0]
        yield Contender(lambda: Timed(now, {phase: share * now for phase, share in PHASES.items()}))

    return opened


def gate(path: Path, *, update: bool = False, extend: bool = False) -> Gate:
    settings = Settings(path / "baselines.json", update=update, extend=extend, processes=PROCESSES)
    return Gate(settings, {"cpu": "a"}, {"model": "tiny"})


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    gate(tmp_path, update=True).check("mine", taking([2.0]), taking([1.0]), run_all)
    return tmp_path


@pytest.mark.parametrize(
    ("subject", "verdict"),
    [(2.0, Verdict.PASS), (2.3, Verdict.REGRESSION), (1.7, Verdict.IMPROVED)],
)
def test_at_the_same_speed_the_ratio_decides(
    recorded: Path, subject: float, verdict: Verdict
) -> None:
    outcome = gate(recorded).check("mine", taking([subject]), taking([1.0]), run_all)
    assert outcome.verdict is verdict
    assert outcome.off_speed == 0


@pytest.mark.parametrize("speed", [0.8, 1.25, 4.0])
def test_at_another_speed_there_is_no_verdict(recorded: Path, speed: float) -> None:
    # Also where the ratio moved, and where the milliseconds did.
    outcome = gate(recorded).check("mine", taking([2.4 * speed]), taking([speed]), run_all)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.counted == 0
    assert "the machine ran at a speed that the baseline does not know" in outcome.reason
    assert f"yardstick {1e3 * speed:.2f} ms, stored 1000.00 to 1000.00 ms" in outcome.reason


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_what_no_speed_explains_is_red_at_any(recorded: Path, speed: float) -> None:
    outcome = gate(recorded).check("mine", taking([3.0 * speed]), taking([speed]), run_all)
    assert outcome.verdict is Verdict.REGRESSION
    assert outcome.ratio == pytest.approx(3.0)
    assert "for any speed of the machine" in outcome.reason


def test_where_others_used_the_machine_there_is_no_verdict_and_it_says_so(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = itertools.cycle([0.5, 0.5, 0.5, 0.5, 0.0])
    monkeypatch.setattr(Watch, "foreign_share", lambda self: next(shares))
    outcome = gate(recorded).check("mine", taking([2.4]), taking([1.0]), run_all)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert re.fullmatch(r"others used the machine in \d+ of \d+ rounds", outcome.reason)
    assert outcome.reason in verdicts.summary([outcome])[1]


def test_what_ran_at_the_baselines_speed_is_judged(recorded: Path) -> None:
    yardsticks = [2.0, 1.0, 1.0, 2.0, 1.0, 1.0]
    subjects = [9.0, 2.3, 2.3, 9.0, 2.3, 2.3]
    outcome = gate(recorded).check("mine", taking(subjects), taking(yardsticks), run_all)
    assert outcome.verdict is Verdict.REGRESSION
    assert outcome.ratio == pytest.approx(2.3)
    assert outcome.off_speed > 0
    assert outcome.grown is not None
    assert outcome.grown.phase == "device"


def test_an_extension_adds_a_speed(recorded: Path) -> None:
    slowly = taking([2.64]), taking([1.2])
    assert gate(recorded).check("mine", *slowly, run_all).verdict is Verdict.INCONCLUSIVE
    extending = gate(recorded, update=True, extend=True)
    assert extending.check("mine", *slowly, run_all).verdict is None
    (profile,) = json.loads((recorded / "baselines.json").read_text())["profiles"]
    processes = profile["entries"]["mine"]["processes"]
    assert sorted({process["yardstick_ms"] for process in processes}) == [1000.0, 1200.0]
    assert len(processes) == 2 * RECORDED_BATCHES * PROCESSES
    for subject, yardstick in ((2.0, 1.0), (2.64, 1.2)):
        outcome = gate(recorded).check("mine", taking([subject]), taking([yardstick]), run_all)
        assert outcome.verdict is Verdict.PASS
        assert outcome.stored_ratio == pytest.approx(subject / yardstick, rel=1e-3)
        assert sum(outcome.stored_phases.values()) == pytest.approx(subject / yardstick, rel=1e-3)


def test_other_phases_are_not_added_to_what_is_stored(recorded: Path) -> None:
    path = recorded / "baselines.json"
    text = path.read_text()
    path.write_text(text.replace('"transport"', '"carriage"'))
    with pytest.raises(MeasurementError, match="mine: not extended: the stored phases"):
        gate(recorded, update=True, extend=True).check(
            "mine", taking([2.0]), taking([1.0]), run_all
        )
    assert path.read_text() == text.replace('"transport"', '"carriage"')


def test_an_update_forgets_what_was_stored(recorded: Path) -> None:
    gate(recorded, update=True).check("mine", taking([2.64]), taking([1.2]), run_all)
    outcome = gate(recorded).check("mine", taking([2.0]), taking([1.0]), run_all)
    assert outcome.verdict is Verdict.INCONCLUSIVE


def test_an_extension_drops_the_oldest(recorded: Path) -> None:
    for _ in range(MOST_PROCESSES // (RECORDED_BATCHES * PROCESSES) + 1):
        gate(recorded, update=True, extend=True).check(
            "mine", taking([2.64]), taking([1.2]), run_all
        )
    (profile,) = json.loads((recorded / "baselines.json").read_text())["profiles"]
    processes = profile["entries"]["mine"]["processes"]
    assert {process["yardstick_ms"] for process in processes} == {1200.0}
    assert len(processes) == MOST_PROCESSES


@pytest.mark.parametrize(("foreign", "recorded_anyway"), [([1.0, 0.0], True), ([1.0], False)])
def test_a_baseline_is_recorded_of_what_others_did_not_disturb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: Sequence[float], recorded_anyway: bool
) -> None:
    shares = itertools.chain(itertools.repeat(foreign[0], 90), itertools.repeat(foreign[-1]))
    monkeypatch.setattr(Watch, "foreign_share", lambda self: next(shares))
    recording = gate(tmp_path, update=True)
    if recorded_anyway:
        outcome = recording.check("mine", taking([2.0]), taking([1.0]), run_all)
        assert outcome.looks > RECORDED_BATCHES
        return
    with pytest.raises(MeasurementError, match="mine: not recorded: others used the machine"):
        recording.check("mine", taking([2.0]), taking([1.0]), run_all)
    assert not (tmp_path / "baselines.json").exists()
