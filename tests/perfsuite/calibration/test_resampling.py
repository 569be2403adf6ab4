from __future__ import annotations

import numpy as np
import pytest

from perfsuite.calibration.resampling import GATE, Rates, simulate
from perfsuite.calibration.rules import RULES, Process, Processes


def recorded(runs: int, *, slower: float, seed: int) -> list[Processes]:
    """Runs whose ratio to the yardstick varies by 1 % and whose seconds drift by 10 % from run to run."""
    rng = np.random.default_rng(seed)
    made: list[Processes] = []
    for _ in range(runs):
        machine = rng.normal(0, 0.1)
        processes = []
        for _ in range(8):
            own = np.log1p(slower) + rng.normal(0, 0.01)
            rounds = own + rng.normal(0, 0.02, 12)
            seconds = np.exp(machine + own + rng.normal(0, 0.03, 60)) * 1e-2
            processes.append(Process(rounds.tolist(), 1.0, seconds.tolist()))
        made.append(processes)
    return made


@pytest.fixture(scope="module")
def found() -> dict[str, Rates]:
    return dict(
        simulate(
            recorded(6, slower=0.0, seed=1),
            {"total+10%": recorded(6, slower=0.10, seed=2)},
            processes=8,
            simulations=30,
        )
    )


def test_the_gate_sees_what_a_drifting_machine_hides_from_seconds(found: dict[str, Rates]) -> None:
    assert found[""].as_used[GATE] <= 0.05
    assert found["total+10%"].as_used[GATE] >= 0.9
    # Rules over seconds take the drift for a change, or must be so wide that they see none.
    assert found[""].as_used["pytest-benchmark, median:5%"] > 0.1
    for name in RULES:
        assert found["total+10%"].at_level[name] < found["total+10%"].as_used[GATE]


def test_thresholds_at_the_level_leave_few_unchanged_runs_red(found: dict[str, Rates]) -> None:
    assert all(share <= 0.04 for share in found[""].at_level.values())
