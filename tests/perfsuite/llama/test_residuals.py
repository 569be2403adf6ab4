from __future__ import annotations

import math

import pytest

from perfsuite.llama.residuals import CONSTANT_OF, moved_constant
from perfsuite.llama.results import PHASES

PREDICTED = dict.fromkeys(PHASES, 0.1) | {"device": 0.6}


@pytest.mark.parametrize("phase", PHASES)
def test_the_phase_that_grew_names_its_constant(phase: str) -> None:
    moved = moved_constant({**PREDICTED, phase: 2.5 * PREDICTED[phase]}, PREDICTED)
    assert moved is not None
    assert moved.phase == phase
    assert moved.constant == CONSTANT_OF[phase]
    assert moved.constant.startswith(phase)
    assert moved.excess_s == pytest.approx(1.5 * PREDICTED[phase])
    assert moved.factor == pytest.approx(2.5)


def test_what_is_within_tolerance_did_not_move() -> None:
    assert moved_constant(PREDICTED, PREDICTED) is None
    assert (
        moved_constant({phase: 1.2 * value for phase, value in PREDICTED.items()}, PREDICTED)
        is None
    )


def test_a_small_phase_that_doubles_does_not_hide_a_large_one_that_grew() -> None:
    measured = {**PREDICTED, "serialize": 0.2, "device": 1.2}
    moved = moved_constant(measured, PREDICTED)
    assert moved is not None
    assert moved.phase == "device"


def test_a_phase_that_hardly_counts_did_not_move() -> None:
    predicted = {**PREDICTED, "serialize": 0.001}
    assert moved_constant({**predicted, "serialize": 0.08}, predicted) is None


def test_a_phase_out_of_nothing_has_no_finite_factor() -> None:
    moved = moved_constant({**PREDICTED, "serialize": 0.3}, {**PREDICTED, "serialize": 0.0})
    assert moved is not None
    assert moved.factor == math.inf


def test_faster_is_not_moved() -> None:
    assert moved_constant(dict.fromkeys(PHASES, 0.0), PREDICTED) is None


def test_a_phase_that_only_one_side_knows_is_no_change() -> None:
    measured = {"device": 2.0, "new": 9.0}
    moved = moved_constant(measured, {"device": 1.0, "old": 1.0}, tolerance=0.0, share=0.0)
    assert moved is not None
    assert moved.phase == "device"
    assert moved_constant({}, {"device": 1.0}) is None
    assert moved_constant(measured, {}) is None
