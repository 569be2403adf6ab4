"""What one process gave: kept as it is where it is stored."""

from __future__ import annotations

import dataclasses

import pytest

from perfsuite.gate.process import Process


def test_it_cannot_be_changed_after_it_was_measured() -> None:
    process = Process(0.1, 2e-3, 1e-3, "a", rounds=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        process.log_ratio = 0.0  # type: ignore[misc]


def test_what_was_not_asked_for_is_not_known_and_no_round_is_made_up() -> None:
    process = Process(0.1, 2e-3, 1e-3)
    assert (process.peak_bytes, process.rounds, process.disturbed) == (None, 0, 0)
    assert process.phases == {}
    assert process.phases is not Process(0.1, 2e-3, 1e-3).phases
