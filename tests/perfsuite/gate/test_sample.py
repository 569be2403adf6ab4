"""What a verdict sees: arrays of processes, and robust values whose mean is the trimmed one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from perfsuite.gate.process import Process
from perfsuite.gate.sample import TRIM, Group, Sample

numbers = st.floats(-10, 10)
recordings = st.lists(st.lists(numbers, min_size=3, max_size=30), min_size=1, max_size=4)


def process(
    log_ratio: float, server: str = "", rounds: int = 1, reference_s: float = 1e-3
) -> Process:
    return Process(log_ratio, reference_s * math.exp(log_ratio), reference_s, server, rounds=rounds)


def test_a_server_counts_within_its_recording_and_who_says_none_had_its_own() -> None:
    sample = Sample.of(
        [[process(0, "a"), process(0, "b"), process(0, "a")], [process(0, "a"), process(0), process(0)]]
    )  # fmt: skip
    assert sample.servers.tolist() == [0, 1, 0, 2, 3, 4]
    assert sample.recordings.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(sample) == 6


def test_processes_without_a_round_that_counts_are_left_out() -> None:
    sample = Sample.of([[process(0.1), process(0.2, rounds=0), process(0.3)]])
    assert sample.counted.log_ratios.tolist() == [0.1, 0.3]
    whole = Sample.of([[process(0.1), process(0.2)]])
    assert whole.counted is whole


@given(recordings)
def test_the_mean_of_robust_values_is_each_recording_s_trimmed_mean(
    parts: list[list[float]],
) -> None:
    """As scipy has it, an implementation of its own."""
    sample = Sample.of([[process(value) for value in part] for part in parts])
    group = Group.of(sample, 0.0)
    for mean, part in zip(group.means, parts, strict=True):
        assert mean == pytest.approx(stats.trim_mean(part, TRIM), abs=1e-9)
    assert group.counts.tolist() == [len(part) for part in parts]


@given(st.lists(numbers, min_size=10, max_size=30), st.floats(1e3, 1e9))
def test_one_process_may_be_as_far_off_as_it_likes(values: list[float], far: float) -> None:
    ordered = sorted(values)
    near = Group.of(Sample.of([[process(value) for value in ordered]]), 0.0)
    wild = Group.of(Sample.of([[*map(process, ordered[:-1]), process(ordered[-1])]]), 0.0)
    sample = Sample.of([[process(value) for value in ordered]])
    sample.log_ratios[-1] = far
    wild = Group.of(sample, 0.0)
    assert wild.means[0] == pytest.approx(near.means[0], abs=1e-9)
    assert wild.squares[0] + wild.squares[1] == pytest.approx(sum(near.squares), abs=1e-9)


@given(recordings, st.data())
def test_squares_within_and_between_servers_are_all_there_are(
    parts: list[list[float]], data: st.DataObject
) -> None:
    """The analysis of variance divides the sum of squares, within each recording, and loses nothing of it."""
    names = st.sampled_from("abc")
    sample = Sample.of([[process(value, data.draw(names)) for value in part] for part in parts])
    group = Group.of(sample, 0.0)
    whole = sum(
        float(((values := group.values[group.recording == number]) - values.mean()) @ (values - values.mean()))
        for number in range(len(parts))
    )  # fmt: skip
    assert sum(group.squares) == pytest.approx(whole, abs=1e-6)
    assert min(group.squares) >= -1e-9


def test_the_slope_is_taken_out() -> None:
    seconds = np.geomspace(1e-3, 2e-3, 12)
    sample = Sample.of([[process(0.5 * math.log(one), reference_s=one) for one in seconds]])
    assert np.ptp(Group.of(sample, 0.5).values) == pytest.approx(0.0, abs=1e-12)
    assert np.ptp(sample.raw.values) > 0.1
    assert np.ptp(sample.levelled.values) < np.ptp(sample.raw.values)
