"""The simulation by which the history's own rates are known: its noise, its changes, and its tables."""

from __future__ import annotations

import numpy as np
import pytest

from perfsuite.history import rates
from perfsuite.history.rates import _APART, RUNS, STEPS, _places, delay, main, noise, true_changes


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_the_noise_is_as_large_and_as_correlated_as_it_says(phi: float) -> None:
    drawn = noise(np.random.default_rng(1), 200, 400, spread=0.02, phi=phi)
    quiet = np.where(np.abs(drawn) < 0.1, drawn, np.nan)  # without the runs that somebody disturbed
    assert np.nanstd(quiet) == pytest.approx(0.02, rel=0.05)
    pairs = quiet[:, :-1] * quiet[:, 1:]
    assert np.nanmean(pairs) / np.nanvar(quiet) == pytest.approx(phi, abs=0.05)
    assert float((drawn > 0.08).mean()) == pytest.approx(0.02, abs=0.005)


def test_true_changes_lie_apart_from_each_other_and_from_the_ends() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        edges = [0, *_places(rng), RUNS]
        assert min(np.diff(edges)) >= _APART


def test_without_noise_every_change_is_found_where_and_as_large_as_it_is() -> None:
    found = true_changes(4, spread=1e-5, seed=3)
    assert found.by_step == dict.fromkeys(STEPS, 1.0)
    assert (found.all_large, found.index_covered) == (1.0, 1.0)


def test_a_change_is_seen_once_there_are_enough_runs_on_the_new_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rates, "RUNS", 60)
    (seen,) = delay(0.15, 1, spread=1e-5, seed=4)
    assert seen == 4  # a level of fewer is a bad day


def test_the_tables_are_markdown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "false_changes", lambda histories, **_: histories / 100)
    monkeypatch.setattr(rates, "true_changes", lambda histories, **_: FOUND)
    monkeypatch.setattr(rates, "delay", lambda step, histories: [5, 7])
    assert main(["--histories", "3"]) == 0
    tables = capsys.readouterr().out.split("\n\n")
    assert [table.count("\n|") for table in tables] == [5, 5, 4]
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1
    assert "| 200 | 3.0% | 3.0% | 3.0% | 3.0% |" in tables[0]
    assert "| 8% | 6 runs | 7 runs |" in tables[2]


FOUND = rates.Found(dict.fromkeys(STEPS, 0.9), 0.8, 0.1, 0.95, 0.94)
