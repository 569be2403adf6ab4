"""The gate on contenders with a clock of their own: what it does when the machine changes its speed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from perfsuite.errors import MeasurementError
from perfsuite.gate.deciding import Verdict
from perfsuite.gate.disturbance import Watch
from perfsuite.gate.judging import MOST_BATCHES, RECORDED_BATCHES, Gate, Settings
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


def gate(path: Path, *, update: bool = False) -> Gate:
    settings = Settings(path / "baselines.json", update=update, processes=PROCESSES)
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
    assert "the machine ran at another speed" in outcome.reason
    assert "its yardstick took 1000.00 ms then" in outcome.reason


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_what_no_speed_explains_is_red_at_any(recorded: Path, speed: float) -> None:
    outcome = gate(recorded).check("mine", taking([3.0 * speed]), taking([speed]), run_all)
    assert outcome.verdict is Verdict.REGRESSION
    assert outcome.ratio == pytest.approx(3.0)
    assert "for any speed of the machine" in outcome.reason


def test_what_ran_at_the_baselines_speed_is_judged(recorded: Path) -> None:
    yardsticks = [2.0, 1.0, 1.0, 2.0, 1.0, 1.0]
    subjects = [9.0, 2.3, 2.3, 9.0, 2.3, 2.3]
    outcome = gate(recorded).check("mine", taking(subjects), taking(yardsticks), run_all)
    assert outcome.verdict is Verdict.REGRESSION
    assert outcome.off_speed > 0
    assert outcome.grown is not None
    assert outcome.grown.phase == "device"


def test_a_baseline_holds_one_speed_and_is_measured_until_there_is_enough(tmp_path: Path) -> None:
    yardsticks = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]
    outcome = gate(tmp_path, update=True).check("mine", taking([2.0]), taking(yardsticks), run_all)
    assert outcome.looks == RECORDED_BATCHES + 1
    (profile,) = json.loads((tmp_path / "baselines.json").read_text())["profiles"]
    entry = profile["entries"]["mine"]
    assert (entry["yardstick_ms"], entry["ratio"]) == (1000.0, 2.0)
    assert len(entry["replicates"]) == 8


def test_no_baseline_is_recorded_while_the_speed_changes_all_the_time(tmp_path: Path) -> None:
    yardsticks = [1.3**number for number in range(MOST_BATCHES * PROCESSES)]
    with pytest.raises(MeasurementError, match="mine: not recorded: the machine ran at another"):
        gate(tmp_path, update=True).check("mine", taking([2.0]), taking(yardsticks), run_all)
    assert not (tmp_path / "baselines.json").exists()


def test_no_baseline_is_recorded_while_others_use_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "foreign_share", lambda self: 1.0)
    with pytest.raises(MeasurementError, match="mine: not recorded: others used the machine"):
        gate(tmp_path, update=True).check("mine", taking([2.0]), taking([1.0]), run_all)
