"""Verdicts as pure functions of samples."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsuite.gate.inference import (
    GROSS,
    LEAST_MARGIN,
    Verdict,
    crept,
    judge,
    judge_limit,
    judge_paired,
    location,
    measured_margin,
    needed_for,
)
from perfsuite.gate.mixed_model import ASSUMED_SD, Hours, change_of
from perfsuite.gate.process import Process
from perfsuite.gate.sample import Sample

LOOKS = 6


def sample(
    seed: int = 0,
    recordings: int = 1,
    processes: int = 36,
    *,
    level: float = 0.0,
    sd: float = 0.02,
    hour_sd: float = 0.0,
    server_sd: float = 0.0,
    servers: int = 12,
    creep: float = 0.0,
) -> Sample:
    """Return normal processes of servers used in turn, with a reference of nearly one speed."""
    rng = np.random.default_rng(seed)
    recording = np.repeat(np.arange(recordings), processes)
    server = np.tile(np.arange(processes) % servers, recordings) + servers * recording
    hours = rng.normal(0, hour_sd, recordings) + creep * np.arange(recordings)
    values = level + hours[recording] + rng.normal(0, server_sd, servers * recordings)[server]
    values += rng.normal(0, sd, len(values))
    return Sample(values, np.exp(rng.normal(-5, 0.01, len(values))), server, recording)


def slower(one: Sample, share: float) -> Sample:
    return replace(one, log_ratios=one.log_ratios + math.log1p(share))


def last(current: Sample, stored: Sample, margin: float | None = None) -> Verdict:
    return judge(current, stored, margin=margin, look=LOOKS, looks=LOOKS, subjects=4).verdict


# Whole samples


def test_processes_become_arrays() -> None:
    one = Process(0.1, 1.0, 2.0, server="a", rounds=3)
    found = Sample.of([[one, one], [one, replace(one, server="", rounds=0)]])
    assert found.log_ratios.tolist() == [0.1] * 4
    assert found.reference_s.tolist() == [2.0] * 4
    assert found.recordings.tolist() == [0, 0, 1, 1]
    assert len(set(found.servers[:2])) == 1
    assert len(set(found.servers)) == 3  # each recording has servers of its own
    assert len(found.counted) == 3


def test_nothing_is_a_sample_too() -> None:
    assert len(Sample.of([])) == 0
    judgement = judge(Sample.of([]), Sample.of([]), margin=None)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert math.isnan(judgement.change.value)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_processes_are_inconclusive(count: int) -> None:
    few, many = sample(processes=count), sample(1)
    assert last(slower(few, 5.0), many) is Verdict.INCONCLUSIVE
    assert last(slower(many, 0.0), few) is Verdict.INCONCLUSIVE
    assert judge_paired(few, margin=0.05).verdict is Verdict.INCONCLUSIVE
    assert judge_limit([2.0] * count, 1.0).verdict is Verdict.INCONCLUSIVE


# Verdicts against a baseline


def test_verdicts_of_a_quiet_benchmark() -> None:
    stored, current = sample(0, recordings=4), sample(1)
    assert last(current, stored) is Verdict.PASS
    assert last(slower(current, 0.10), stored) is Verdict.REGRESSION
    assert last(slower(current, -0.10), stored) is Verdict.IMPROVED
    assert last(slower(current, 0.10), stored, margin=0.5) is Verdict.PASS


def test_the_change_is_a_ratio_with_its_interval() -> None:
    judgement = judge(slower(sample(1), 0.10), sample(0, recordings=4), margin=0.02)
    assert judgement.change.low < 1.10 < judgement.change.high
    assert judgement.change.value == pytest.approx(1.10, abs=0.02)
    assert judgement.processes == 36
    assert judgement.margin == 0.02


def test_one_recording_supports_no_red_verdict_on_a_small_change() -> None:
    stored, current = sample(0), slower(sample(1), 0.06)
    assert last(current, stored) is Verdict.EXTEND
    assert last(current, sample(0, recordings=4)) is Verdict.REGRESSION
    assert judge(current, stored, margin=None, assumed_sd=0.0, subjects=4).verdict is (
        Verdict.REGRESSION
    )


def test_one_recording_supports_a_red_verdict_on_a_large_change() -> None:
    assert last(slower(sample(1), 0.2), sample(0)) is Verdict.REGRESSION
    assert last(slower(sample(1), -0.2), sample(0)) is Verdict.IMPROVED


def test_recordings_of_other_benchmarks_say_how_hours_differ() -> None:
    stored, current = sample(0), slower(sample(1), 0.06)
    others = Hours.of([sample(seed, recordings=4) for seed in (2, 3)])
    assert others.freedom == 6
    judgement = judge(
        current, stored, margin=None, look=LOOKS, looks=LOOKS, subjects=4, others=others
    )
    assert judgement.verdict is Verdict.REGRESSION


def test_hours_that_differ_in_other_benchmarks_make_this_one_careful() -> None:
    stored, current = sample(0, recordings=4), slower(sample(1), 0.06)
    others = Hours.of([sample(seed, recordings=4, hour_sd=0.04) for seed in range(2, 6)])
    judgement = judge(current, stored, margin=0.02, subjects=4, others=others)
    assert judgement.verdict is Verdict.EXTEND


def test_a_bad_hour_is_within_the_interval_of_hours_that_differ() -> None:
    stored = sample(5, recordings=8, hour_sd=0.03)
    assert last(slower(sample(1), 0.05), stored) is not Verdict.REGRESSION


def test_five_times_slower_is_red_whatever_else() -> None:
    stored = sample(0)
    current = slower(sample(1, sd=0.3), 4.0)
    unknown = replace(current, reference_s=current.reference_s * 3)
    disturbed = replace(current, quiet=np.zeros(len(current), dtype=np.bool_))
    for one in (current, unknown, disturbed):
        assert last(one, stored) is Verdict.REGRESSION
        if one is not disturbed:
            first = judge(one, stored, margin=None, look=1, looks=LOOKS)
            assert first.verdict is Verdict.REGRESSION


def test_what_shares_its_processor_is_not_red_for_being_twice_as_long() -> None:
    # Long calls lose their processor to others, and the reference's short ones fit in between.
    current = slower(sample(1), 1.2)
    disturbed = replace(current, quiet=np.zeros(len(current), dtype=np.bool_))
    judgement = judge(disturbed, sample(0), margin=None, look=LOOKS, looks=LOOKS)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "undisturbed" in judgement.reason
    assert last(current, sample(0)) is Verdict.REGRESSION


def test_a_speed_that_is_not_stored_is_no_verdict_on_small_changes() -> None:
    current = slower(sample(1), 0.10)
    unknown = replace(current, reference_s=current.reference_s * 2)
    judgement = judge(unknown, sample(0, recordings=4), margin=None)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "speed" in judgement.reason


def test_a_ratio_that_follows_the_speed_is_held_against_its_like() -> None:
    rng = np.random.default_rng(0)
    stored, current = sample(0, recordings=4), sample(1)
    log_s = rng.normal(0, 0.08, len(stored))
    stored = replace(stored, log_ratios=stored.log_ratios - 0.5 * log_s, reference_s=np.exp(log_s))
    fast = replace(
        current,
        log_ratios=current.log_ratios + 0.05,
        reference_s=np.exp(current.log_ratios * 0 - 0.1),
    )
    assert change_of(fast, stored).value == pytest.approx(0.0, abs=0.012)
    assert last(fast, stored) is not Verdict.REGRESSION


@pytest.mark.parametrize("of_servers", [False, True])
def test_two_speeds_of_processes_are_no_regression(of_servers: bool) -> None:
    """Suites of callables that run 1.7 times slower in two of five processes, or servers."""
    rng = np.random.default_rng(0)

    def bimodal(one: Sample) -> Sample:
        slow = rng.random(one.servers.max() + 1 if of_servers else len(one)) < 0.4
        slow = slow[one.servers] if of_servers else slow
        return replace(one, log_ratios=one.log_ratios + math.log(1.7) * slow)

    verdicts = [
        judge(
            bimodal(sample(seed, processes=count)),
            bimodal(sample(1000 + seed, recordings=2)),
            margin=None,
            look=look,
            looks=LOOKS,
        ).verdict
        for seed in range(100)
        for look, count in ((1, 6), (3, 18), (6, 36))
    ]
    assert verdicts.count(Verdict.REGRESSION) <= 1
    assert verdicts.count(Verdict.IMPROVED) <= 1


def test_processes_that_are_far_off_move_nothing() -> None:
    stored, current = sample(0, recordings=4), sample(1)
    off = current.log_ratios.copy()
    off[:4] += 3.0
    assert location(replace(current, log_ratios=off)) == pytest.approx(location(current), abs=0.01)
    assert last(replace(current, log_ratios=off), stored) is Verdict.PASS


def test_servers_that_differ_widen_the_interval() -> None:
    alike = change_of(sample(1), sample(0, recordings=4)).error
    of_servers = [
        change_of(
            sample(seed, server_sd=0.05), sample(100 + seed, recordings=4, server_sd=0.05)
        ).error
        for seed in range(5)
    ]
    assert min(of_servers) > 2 * alike


def test_more_processes_narrow_the_interval_down_to_the_hours() -> None:
    stored = sample(0, recordings=4)
    errors = [change_of(sample(1, processes=count), stored) for count in (6, 12, 36, 600)]
    widths = [change.half(0.025, 0.025) for change in errors]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] > errors[-1].hours_error


def test_noise_makes_as_many_regressions_as_improvements() -> None:
    """With hours that differ more than a user's margin, and as one look."""
    verdicts = [
        judge(
            sample(seed, processes=12, hour_sd=0.04),
            sample(5000 + seed, recordings=2, hour_sd=0.04),
            margin=0.01,
            assumed_sd=0.01,
        ).verdict
        for seed in range(600)
    ]
    red, improved = verdicts.count(Verdict.REGRESSION), verdicts.count(Verdict.IMPROVED)
    assert red + improved > 60
    assert abs(red - improved) < 3 * math.sqrt(red + improved)


def test_unchanged_quiet_benchmarks_are_hardly_ever_red() -> None:
    red = sum(
        last(sample(seed, hour_sd=0.004), sample(9000 + seed, recordings=4, hour_sd=0.004))
        is Verdict.REGRESSION
        for seed in range(300)
    )
    assert red <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.02, 0.2), st.integers(1, LOOKS))
def test_the_interval_that_is_shown_agrees_with_a_red_verdict(
    seed: int, share: float, look: int
) -> None:
    stored = sample(seed, recordings=4)
    current = slower(sample(seed + 1, processes=6 * look), share)
    judgement = judge(current, stored, margin=None, look=look, looks=LOOKS)
    if judgement.verdict is Verdict.REGRESSION:
        assert judgement.change.low > 1 + judgement.margin


# Laws


seeds = st.integers(0, 10_000)
shares = st.floats(-0.3, 0.3)


@settings(max_examples=40, deadline=None)
@given(seeds, shares)
def test_swapping_the_sides_swaps_regression_and_improvement(seed: int, share: float) -> None:
    one, other = slower(sample(seed), share), sample(seed + 1)
    one = replace(one, reference_s=np.full(len(one), 1.0))
    other = replace(other, reference_s=np.full(len(other), 1.0))
    swapped = {Verdict.REGRESSION: Verdict.IMPROVED, Verdict.IMPROVED: Verdict.REGRESSION}
    forth, back = (judge(*pair, margin=0.03) for pair in ((one, other), (other, one)))
    assert math.log(back.change.value) == pytest.approx(-math.log(forth.change.value), abs=1e-9)
    if forth.verdict in swapped and forth.margin == 0.03:
        assert back.verdict is swapped[forth.verdict]


@settings(max_examples=40, deadline=None)
@given(seeds, shares, st.floats(0.0, 0.3))
def test_slower_is_never_better(seed: int, share: float, more: float) -> None:
    order = [
        Verdict.IMPROVED,
        Verdict.PASS,
        Verdict.INCONCLUSIVE,
        Verdict.EXTEND,
        Verdict.REGRESSION,
    ]
    stored = sample(seed, recordings=4)
    less = slower(sample(seed + 1), share)
    assert order.index(last(slower(less, more), stored)) >= order.index(last(less, stored))


@settings(max_examples=40, deadline=None)
@given(seeds, shares, st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_a_wider_margin_never_makes_red(
    seed: int, share: float, margin: float, more: float
) -> None:
    stored, current = sample(seed, recordings=4), slower(sample(seed + 1), share)
    if last(current, stored, margin + more) is Verdict.REGRESSION:
        assert last(current, stored, margin) is Verdict.REGRESSION


@settings(max_examples=40, deadline=None)
@given(seeds, shares, st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_units_do_not_matter(seed: int, share: float, unit: float, other: float) -> None:
    stored, current = sample(seed, recordings=4), slower(sample(seed + 1), share)

    def scaled(one: Sample) -> Sample:
        return replace(
            one,
            log_ratios=one.log_ratios + math.log(unit),
            reference_s=one.reference_s * other,
        )

    before, after = (
        judge(current, stored, margin=None),
        judge(scaled(current), scaled(stored), margin=None),
    )
    assert after.verdict is before.verdict
    assert after.change.value == pytest.approx(before.change.value, rel=1e-6)
    assert after.margin == pytest.approx(before.margin, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_order_of_processes_does_not_matter(seed: int) -> None:
    stored, current = sample(seed, recordings=4), sample(seed + 1)
    mixed = np.random.default_rng(seed).permutation(len(current))
    other = Sample(
        current.log_ratios[mixed],
        current.reference_s[mixed],
        current.servers[mixed],
        current.recordings[mixed],
    )
    before, after = judge(current, stored, margin=0.02), judge(other, stored, margin=0.02)
    assert after.verdict is before.verdict
    assert after.change.low == pytest.approx(before.change.low, rel=1e-9)


# Margins


def test_a_quiet_baseline_has_the_least_margin() -> None:
    assert measured_margin(sample(0, recordings=4, sd=0.01)) == LEAST_MARGIN
    assert measured_margin(sample(0, processes=2)) == LEAST_MARGIN


def test_noise_of_processes_and_of_hours_widens_the_margin() -> None:
    assert measured_margin(sample(0, recordings=4, sd=0.1)) > 0.03
    assert measured_margin(sample(0, recordings=8, hour_sd=0.05)) > 0.05


# Comparisons, limits, quantiles


def test_comparisons() -> None:
    pairs = sample(0)
    judged = {
        share: judge_paired(slower(pairs, share), margin=0.05, look=LOOKS, looks=LOOKS).verdict
        for share in (-0.15, 0.0, 0.05, 0.15)
    }
    assert judged == {
        -0.15: Verdict.IMPROVED,
        0.0: Verdict.PASS,
        0.05: Verdict.INCONCLUSIVE,
        0.15: Verdict.REGRESSION,
    }


def test_a_comparison_of_disturbed_pairs_counts_them_all() -> None:
    pairs = replace(slower(sample(0), 0.5), quiet=np.zeros(36, dtype=np.bool_))
    assert judge_paired(pairs, margin=0.05).verdict is Verdict.REGRESSION


def test_limits() -> None:
    seconds = np.exp(sample(0).log_ratios)
    assert judge_limit(seconds, 0.9).verdict is Verdict.REGRESSION
    assert judge_limit(seconds, 1.1).verdict in (Verdict.PASS, Verdict.IMPROVED)
    assert judge_limit(seconds, 1.0).verdict is Verdict.INCONCLUSIVE
    assert judge_limit(seconds * 1e-6, 0.5e-6).change.value == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(("seconds", "limit_s"), [([1.0, 0.0, 1.0], 1.0), ([1.0] * 3, 0.0)])
def test_limits_need_positive_seconds(seconds: list[float], limit_s: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        judge_limit(seconds, limit_s)


def test_calls_that_a_quantile_needs() -> None:
    assert [needed_for(share) for share in (0.95, 0.99, 0.05)] == [59, 299, 59]
    with pytest.raises(ValueError, match="between 0 and 1"):
        needed_for(1.0)


# Creep


def test_a_creep_is_found_against_the_oldest() -> None:
    found = crept(sample(0, recordings=10, hour_sd=0.004, creep=0.01))
    assert found is not None
    assert 1.05 < found.value < 1.13
    assert 1 + LEAST_MARGIN < found.low < found.value < found.high


def test_two_recordings_that_are_far_apart_are_a_creep() -> None:
    assert crept(sample(0, recordings=2, creep=0.2)) is not None
    assert crept(sample(0, recordings=2, creep=ASSUMED_SD)) is None


def test_noise_and_improvements_are_no_creep() -> None:
    assert crept(sample(0)) is None
    assert crept(sample(0, recordings=8, creep=-0.02)) is None
    found = [crept(sample(seed, recordings=6, hour_sd=0.02)) for seed in range(100)]
    assert sum(one is not None for one in found) <= 2


def test_gross_is_above_what_is_assumed_of_hours() -> None:
    assert math.log1p(GROSS) > 5 * ASSUMED_SD
