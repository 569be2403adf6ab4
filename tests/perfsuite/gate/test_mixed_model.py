"""A linear mixed model: its variances and its intervals, held against draws from that very model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from perfsuite.gate.mixed_model import (
    ASSUMED_SD,
    LEAST_SD,
    RECORDINGS,
    Change,
    Hours,
    Spread,
    change_of,
    excess_of,
    hours_of,
    mean_of,
    t_quantile,
    unconditioned,
)
from perfsuite.gate.sample import Group, Sample

SERVERS, EACH = 4, 6


def drawn(
    rng: np.random.Generator,
    hours: int = 1,
    *,
    level: float = 0.0,
    processes: float = 0.01,
    servers: float = 0.0,
    recordings: float = 0.0,
) -> Sample:
    """``hours`` recordings; standard deviations of the effects of processes, servers and recordings."""
    count = hours * SERVERS * EACH
    server = np.repeat(np.arange(hours * SERVERS), EACH)
    recording = np.repeat(np.arange(hours), SERVERS * EACH)
    values = (
        level
        + rng.normal(0, processes, count)
        + rng.normal(0, servers, hours * SERVERS)[server]
        + rng.normal(0, recordings, hours)[recording]
    )
    return Sample(values, np.full(count, 1e-3), server, recording)


@given(st.floats(0.001, 0.4), st.floats(1, 200))
def test_quantiles_are_those_of_student(level: float, freedom: float) -> None:
    wanted = float(stats.t.ppf(1 - level, round(freedom, 2)))
    assert t_quantile(level, freedom) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("servers", [0.0, 0.01])
def test_the_error_of_a_mean_is_what_means_vary_by(servers: float) -> None:
    rng = np.random.default_rng(1)
    found = [mean_of(drawn(rng, servers=servers).raw) for _ in range(400)]
    varied = float(np.var([one.value for one in found]))
    told = float(np.mean([one.error**2 for one in found]))
    assert 0.85 * varied < told < 2 * varied  # never promised too little


def test_servers_that_do_not_differ_are_pooled() -> None:
    sample = drawn(np.random.default_rng(2))
    alike = Sample(sample.log_ratios, sample.reference_s, np.zeros(24, np.int64), sample.recordings)
    spread = Spread.of(alike.raw)
    assert spread.servers == 0.0
    variance, freedom = spread.of_sum(1 / 24, 1.0)
    assert variance == pytest.approx(spread.processes / 24)
    assert freedom == pytest.approx(sum(alike.raw.freedom))


@pytest.mark.parametrize("servers", [0.0, 0.01])
def test_a_mean_s_interval_holds_the_truth_as_often_as_it_says(servers: float) -> None:
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(400):
        found = mean_of(drawn(rng, level=0.3, servers=servers).raw)
        hits.append(abs(found.value - 0.3) <= found.within(0.025))
    assert np.mean(hits) > 0.93


def test_a_change_s_interval_holds_it_where_hours_differ() -> None:
    """Of many recordings that say by how much; the run is one more hour."""
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(300):
        stored = drawn(rng, 6, servers=0.005, recordings=0.02)
        current = drawn(rng, level=0.1, servers=0.005, recordings=0.02)
        found = change_of(current, stored)
        hits.append(abs(found.value - 0.1) <= found.half(0.025, 0.025))
    assert np.mean(hits) > 0.92


def test_one_recording_says_nothing_of_hours_and_so_they_are_assumed_to_differ() -> None:
    rng = np.random.default_rng(5)
    one, many = drawn(rng), drawn(rng, RECORDINGS + 2)
    assert excess_of(one.raw, Spread.of(one.raw)) == Hours(0.0, 0.0)
    assumed = hours_of(one.raw, Spread.of(one.raw), None, ASSUMED_SD)
    assert assumed == Hours(ASSUMED_SD**2, math.inf)
    known = hours_of(many.raw, Spread.of(many.raw), None, ASSUMED_SD)
    assert known.variance < ASSUMED_SD**2 / 4
    assert known.freedom == 1 + RECORDINGS + 1


def test_other_benchmarks_of_the_machine_lend_what_they_know_up_to_a_bound() -> None:
    one = drawn(np.random.default_rng(6))
    spread = Spread.of(one.raw)
    lent = hours_of(one.raw, spread, Hours(0.01**2, 40.0), ASSUMED_SD)
    assert lent.freedom == 5.0
    assert lent.variance == pytest.approx((LEAST_SD**2 + 4 * 0.01**2) / 5)
    rng = np.random.default_rng(7)
    together = Hours.of([drawn(rng, 3, recordings=0.02) for _ in range(200)])
    assert together.freedom == 400
    assert together.variance == pytest.approx(0.02**2, rel=0.25)


@given(st.floats(0.001, 0.1), st.floats(0.0, 0.1), st.floats(0.0, 0.1))
def test_widths_of_independent_parts_are_added_as_their_squares(
    error: float, hours: float, speed: float
) -> None:
    change = Change(0.0, error, 20.0, hours, 3.0, speed)
    half = change.half(0.025, 0.05)
    parts = (
        t_quantile(0.025, 20.0) * error, t_quantile(0.05, 3.0) * hours, t_quantile(0.05, math.inf) * speed,
    )  # fmt: skip
    assert half**2 == pytest.approx(sum(part**2 for part in parts))
    assert half >= change.within(0.025)


def test_a_change_whatever_the_speeds_is_only_asked_where_it_could_be_one() -> None:
    rng = np.random.default_rng(8)
    stored, current = drawn(rng, 3), drawn(rng, level=0.2)
    assert unconditioned(current, stored, 0.5) is None
    found = unconditioned(current, stored, 0.1)
    assert found is not None
    assert found.value == pytest.approx(0.2, abs=0.02)
    few = current.where(np.arange(len(current)) < 2)
    assert unconditioned(few, stored, 0.1) is None


def test_a_mean_is_that_of_its_processes() -> None:
    group = Group.of(drawn(np.random.default_rng(9), level=0.4), 0.0)
    assert mean_of(group).value == pytest.approx(float(group.values.mean()))
