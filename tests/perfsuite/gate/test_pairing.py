from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from math import log

import pytest

from perfsuite.gate.callables import callable_contender
from perfsuite.gate.disturbance import Watch
from perfsuite.gate.pairing import ROUNDS, RUNS, Contender, Open, Pairing, Timed, measure


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


def test_each_replicate_is_a_fresh_process_and_rounds_are_complete() -> None:
    subject, yardstick = Fake(2.0, 4.0), Fake(1.0)
    replicates = measure(subject.open, yardstick.open, processes=2, seed=1)
    assert subject.opened == yardstick.opened == 2
    assert subject.open_now == yardstick.open_now == 0
    assert subject.runs == yardstick.runs == 2 * (1 + ROUNDS) * (1 + RUNS)
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
    quiet = ROUNDS // 3  # those numbered 0 modulo 3, but for round 0, which is warm-up
    assert len(replicate.rounds) == quiet
    assert replicate.disturbed == ROUNDS - quiet


def test_everything_is_closed_when_a_run_fails() -> None:
    subject, yardstick = Fake(2.0), Fake(1.0)
    with Pairing(subject.open, yardstick.open, processes=1) as pairs:
        pairs.prepare()
        assert (subject.open_now, yardstick.open_now) == (1, 1)
    assert (subject.open_now, yardstick.open_now) == (0, 0)


def test_blocks_are_whole_and_their_order_varies() -> None:
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
    size = 1 + RUNS
    blocks = [order[start : start + size] for start in range(0, len(order), size)]
    assert all(len(set(block)) == 1 for block in blocks)
    rounds = [(one[0], other[0]) for one, other in zip(blocks[::2], blocks[1::2], strict=True)]
    assert set(rounds) == {("subject", "yardstick"), ("yardstick", "subject")}


def test_the_first_run_of_a_block_and_the_first_round_do_not_count() -> None:
    runs = count()

    @contextmanager
    def slow_at_first() -> Iterator[Contender]:
        def run() -> Timed:
            number = next(runs)
            return Timed(100.0 if number <= RUNS or number % (1 + RUNS) == 0 else 2.0)

        yield Contender(run)

    (replicate,) = measure(slow_at_first, Fake(1.0).open, processes=1, seed=1)
    assert replicate.rounds == pytest.approx([log(2)] * ROUNDS)


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
