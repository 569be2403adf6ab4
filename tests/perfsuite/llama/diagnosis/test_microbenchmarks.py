"""Micro-measurements: each round adds samples, and constants are the medians of what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from perfsuite.errors import MeasurementError
from perfsuite.llama.bursts import Between, Pattern, patterns
from perfsuite.llama.diagnosis.microbenchmarks import Microbenchmarks
from perfsuite.llama.machine_constants import rate_key
from runtime import STAGES
from tests.runtime.models import small_config

ROWS = (1, 4)
ROUTE = "shared-memory"


@pytest.fixture(scope="module")
def fused() -> tuple[Pattern, ...]:
    return patterns(small_config(), [STAGES["fused"]], 12)


@pytest.fixture(scope="module")
def calibration(fused: tuple[Pattern, ...]) -> Iterator[Microbenchmarks]:
    before = set(psutil.Process().children(recursive=True))
    with closing(Microbenchmarks(fused, Between(0, 0, 0), [ROUTE], 1, ROWS)) as made:
        made.run_round()
        started = set(psutil.Process().children(recursive=True)) - before
        yield made
    assert not psutil.wait_procs(started, timeout=20)[1]
    made.close()


def test_every_operation_of_the_patterns_has_a_rate(
    calibration: Microbenchmarks, fused: tuple[Pattern, ...]
) -> None:
    constants = calibration.constants()
    for burst in fused[0]:
        for row in burst.operations:
            rates = {rate.shape: rate for rate in constants.rates[rate_key(row)]}
            assert rates[row.shape].per_second > 0
    assert set(constants.routes) == {ROUTE}
    assert constants.bandwidth > 0


def test_each_round_adds_a_call_of_each_kind_between_sweeps(calibration: Microbenchmarks) -> None:
    before = {key: len(calls) for key, calls in calibration.samples[ROUTE].calls.items()}
    assert {key.rows for key in before} == set(ROWS)
    assert {key.cold for key in before} == {True, False}  # back to back in the first round only
    calibration.run_round()
    for key, calls in calibration.samples[ROUTE].calls.items():
        assert (len(calls) > before[key]) == key.cold


def test_memory_is_touched_for_the_first_time_and_again(calibration: Microbenchmarks) -> None:
    findings = calibration.findings()
    assert findings.first_touch_s > 0
    assert findings.warm_touch_s > 0
    assert findings.samples is calibration.samples


def test_an_unknown_route_ends_what_was_started_before_it(fused: tuple[Pattern, ...]) -> None:
    before = psutil.Process().children(recursive=True)
    with pytest.raises(MeasurementError, match="no transport 'pigeon'"):
        Microbenchmarks(fused, Between(0, 0, 0), ["pigeon"], 1, ROWS)
    assert psutil.Process().children(recursive=True) == before
