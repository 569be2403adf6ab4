from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from math import log

import pytest

from perfsuite.gate.contenders import Yardsticks, callable_contender
from perfsuite.gate.disturbance import Watch
from perfsuite.gate.pairing import PAIRS_PER_ROUND, ROUNDS, Contender, Open, Pairing, Timed, measure


class Fake:
    """A contender with a clock of its own, which counts what is done with it."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds  # of each process, the last one's for all that follow
        self.opened = self.open_now = self.runs = 0

    @contextmanager
    def open(self) -> Iterator[Contender]:
        seconds = self.seconds[min(self.opened, len(self.seconds) - 1)]
        self.opened += 1
        self.open_now += 1

        def run() -> Timed:
            self.runs += 1
            return Timed(seconds, {"device": seconds / 2})

        yield Contender(run)
        self.open_now -= 1


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "foreign_share", lambda self: 0.0)


def test_each_replicate_is_a_fresh_process_and_pairs_are_complete() -> None:
    subject, yardstick = Fake(2.0, 4.0), Fake(1.0)
    replicates = measure(subject.open, yardstick.open, processes=2, seed=1)
    assert subject.opened == yardstick.opened == 2
    assert subject.open_now == yardstick.open_now == 0
    assert subject.runs == yardstick.runs == 2 * (1 + ROUNDS) * PAIRS_PER_ROUND
    assert [replicate.rounds for replicate in replicates] == [
        pytest.approx([log(2)] * ROUNDS),
        pytest.approx([log(4)] * ROUNDS),
    ]
    assert replicates[0].phases == {"device": pytest.approx(1.0)}
    assert replicates[1].latency_s == 4.0


def test_disturbed_rounds_are_counted_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = count()
    monkeypatch.setattr(Watch, "foreign_share", lambda self: next(shares) % 3)
    (replicate,) = measure(Fake(2.0).open, Fake(1.0).open, processes=1, seed=1)
    # Of the rounds 1 to 8, those numbered 0 modulo 3 were quiet: 3 and 6.
    assert len(replicate.rounds) == 2
    assert replicate.disturbed == ROUNDS - 2


def test_everything_is_closed_when_a_run_fails() -> None:
    subject, yardstick = Fake(2.0), Fake(1.0)
    with Pairing(subject.open, yardstick.open, processes=1) as pairs:
        pairs.prepare()
        assert (subject.open_now, yardstick.open_now) == (1, 1)
    assert (subject.open_now, yardstick.open_now) == (0, 0)


def test_the_order_within_pairs_varies() -> None:
    order: list[str] = []

    def noted(name: str) -> Open:
        @contextmanager
        def opened() -> Iterator[Contender]:
            def run() -> Timed:
                order.append(name)
                return Timed(1.0)

            yield Contender(run)

        return opened

    measure(noted("subject"), noted("yardstick"), processes=1, seed=3)
    pairs = list(zip(order[::2], order[1::2], strict=True))
    assert {frozenset(pair) for pair in pairs} == {frozenset(("subject", "yardstick"))}
    assert len(set(pairs)) == 2


def test_subjects_share_yardsticks_until_one_has_met_them_all() -> None:
    started: list[Fake] = []

    def start(dtype: str) -> Open:
        started.append(Fake(1.0))
        return started[-1].open

    with Yardsticks(2, start) as yardsticks:
        for _ in range(2):  # two subjects, a look each
            measure(Fake(1.0).open, yardsticks.opener("float32"), processes=2, seed=1)
        assert len(started) == 2
        second = yardsticks.opener("float32")
        measure(Fake(1.0).open, second, processes=4, seed=1)
        assert len(started) == 4
        assert sum(fake.open_now for fake in started) == 2
    assert sum(fake.open_now for fake in started) == 0


def test_a_callable_is_slowed_by_its_factor() -> None:
    with (
        callable_contender(lambda: time.sleep(0.01))() as plain,
        callable_contender(lambda: time.sleep(0.01), {"total": 2.0})() as slowed,
    ):
        ratios = [slowed.run().seconds / plain.run().seconds for _ in range(9)]
    assert sorted(ratios)[4] == pytest.approx(2.0, rel=0.2)


def test_foreign_use_is_seen_and_own_use_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    watch = Watch()
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        pass
    own = watch.foreign_share()
    stranger = Watch()
    stranger.pids = []  # the same work, done by somebody who is not measured
    stranger.foreign_share()
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        pass
    assert stranger.foreign_share() > own + 0.5
