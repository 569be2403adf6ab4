"""The generator, and what comes of its conditions."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from perfsuite.calibration.simulate import (
    CHANGES,
    QUIET,
    Condition,
    Noise,
    Row,
    Run,
    conditions,
    extensions_until_refused,
    simulate,
    stored_sample,
    table,
)
from perfsuite.gate import sequential
from perfsuite.render.markdown import markdown

Golden = Callable[[str, str], None]


def values(noise: Noise, count: int = 4000, servers: int = 12, seed: int = 0) -> np.ndarray:
    return Run(noise, np.random.default_rng(seed), servers=servers).processes(count)[0]


def test_processes_vary_as_stated() -> None:
    assert values(Noise(0.02)).std() == pytest.approx(0.02, rel=0.1)
    heavy = values(Noise(0.02, tails=3))
    assert heavy.std() > 0.028
    assert np.median(np.abs(heavy)) < 0.018


def test_hours_differ_between_runs_only() -> None:
    noise = Noise(0.0, hour=0.02)
    assert values(noise).std() == pytest.approx(0.0, abs=1e-9)
    levels = [values(noise, 1, seed=seed)[0] for seed in range(500)]
    assert np.std(levels) == pytest.approx(0.02, rel=0.15)


def test_servers_differ_and_are_renewed() -> None:
    run = Run(Noise(0.0, server=0.02), np.random.default_rng(0), servers=3)
    first, _, numbers = run.processes(6)
    assert first[:3] == pytest.approx(first[3:])
    assert numbers[:3].tolist() == numbers[3:].tolist()
    run.renew()
    fresh, _, others = run.processes(3)
    assert not set(others) & set(numbers)
    assert abs(fresh - first[:3]).min() > 0


def test_drift_is_shared_by_neighbours() -> None:
    drift = values(Noise(0.0, drift=0.02))
    assert drift.std() == pytest.approx(0.02, rel=0.25)
    assert np.corrcoef(drift[:-1], drift[1:])[0, 1] == pytest.approx(math.exp(-1 / 6), abs=0.05)


@pytest.mark.parametrize("of_servers", [False, True])
def test_modes(of_servers: bool) -> None:
    noise = Noise(0.0, modes=0.4, mode=0.5, modes_of_servers=of_servers)
    found = values(noise, servers=2000)
    assert set(found.round(6)) == {0.0, 0.5}
    assert found.mean() == pytest.approx(0.2, abs=0.03)


def test_outliers_are_slower() -> None:
    found = values(Noise(0.0, outliers=0.1, outlier=0.5))
    assert (found > 0).mean() == pytest.approx(0.1, abs=0.02)
    assert found.max() <= 0.5


def test_the_ratio_follows_the_speed() -> None:
    run = Run(Noise(0.0, slope=-0.4), np.random.default_rng(0), servers=2, speed=0.1)
    ratios, seconds, _ = run.processes(100)
    assert np.polyfit(np.log(seconds), ratios, 1)[0] == pytest.approx(-0.4)
    assert np.median(seconds) == pytest.approx(5e-3 * math.exp(0.1), rel=0.02)


def test_a_baseline_has_its_recordings_and_servers() -> None:
    stored = stored_sample(Condition("", QUIET), QUIET[0], np.random.default_rng(0))
    assert set(stored.recordings) == {0, 1, 2, 3}
    assert len(set(stored.servers)) == 4 * sequential.SERVERS


def test_a_quiet_machine() -> None:
    (row,) = simulate([Condition("quiet", QUIET)], 40)
    assert row.suites_red <= 0.05
    assert row.red[CHANGES.index(0.10)] > 0.98
    assert row.red[CHANGES.index(0.05)] > 0.85
    assert row.undecided < 0.2
    assert row.processes < 18


def test_hours_that_differ_more_than_changes_are_no_false_alarms() -> None:
    noises = [replace(noise, hour=0.03) for noise in QUIET]
    cases = [Condition("once", noises, 1), Condition("extended", noises)]
    for row in simulate(cases, 50, changes=(0.0,)):
        assert row.suites_red <= 0.06
        assert row.suites_improved <= 0.06


def test_two_modes_make_no_false_alarms() -> None:
    noises = [Noise(0.02, modes=0.4, mode=0.53, modes_of_servers=True)] * 4
    (row,) = simulate([Condition("", noises)], 40, changes=(0.0,))
    assert row.suites_red <= 0.05


def test_a_comparison_has_no_baseline() -> None:
    (row,) = simulate([Condition("", QUIET, paired=True, margin=0.05)], 20, changes=(0.0, 0.2))
    assert row.red == pytest.approx([0.0, 1.0])


def test_a_creep_is_found_and_noise_is_none() -> None:
    found = extensions_until_refused(QUIET, 0.01, 5)
    assert sum(number is not None for number in found) >= 19
    assert sum(number is not None for number in extensions_until_refused(QUIET, 0.0, 5)) <= 1


def test_one_seed_gives_one_table() -> None:
    cases = [Condition("a", QUIET[:1]), Condition("b", QUIET[:1], 1)]
    rows = simulate(cases, 5, seed=1)
    assert simulate(cases, 5, seed=1) == rows
    lines = markdown([table(rows)]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| a | ")
    assert {line.count("|") for line in lines} == {8}


def test_every_condition_has_a_name_of_its_own() -> None:
    names = [condition.name for condition in conditions()]
    assert len(set(names)) == len(names)
    assert all(len(condition.noises) == 4 for condition in conditions())


def test_the_table_is_the_stored_one(golden: Golden) -> None:
    shares = (0.001, 0.21, 0.98, 1.0)
    rows = [
        Row("quiet", 0.0123, 0.02, shares, 0.04, shares[::-1], 12.3),
        Row("loud, 2 hours", 0.5, 0.0, shares[::-1], 1.0, shares, 36.0),
    ]
    golden("simulated.md", markdown([table(rows)]))
