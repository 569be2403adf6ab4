from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import count

import pytest

from perfsuite.llama import measuring
from perfsuite.llama.measuring import WARMUP_ROUNDS, collector_paused, interleave
from perfsuite.llama.neighbours import Neighbours


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SETTLE_S", 0.0)
    monkeypatch.setattr(gc, "collect", int)  # there is much to walk through once torch is loaded


def clock(order: Iterator[int]) -> dict[str, list[int]]:
    return interleave({name: lambda: next(order) for name in "abc"}, 4, seed=1)


def test_each_round_runs_every_benchmark_once_after_the_warm_up() -> None:
    samples = clock(count())
    rounds = [sorted(samples[name][i] for name in "abc") for i in range(4)]
    first = 3 * WARMUP_ROUNDS
    assert rounds == [list(range(first + 3 * i, first + 3 * i + 3)) for i in range(4)]


def test_the_order_changes_between_rounds_and_follows_the_seed() -> None:
    samples = clock(count())
    orders = {tuple(sorted("abc", key=lambda name: samples[name][i])) for i in range(4)}
    assert len(orders) > 1
    assert samples == clock(count())


def test_every_run_is_announced_with_its_round() -> None:
    seen: list[tuple[str, int]] = []
    interleave({"a": int}, 2, on_run=lambda name, number: seen.append((name, number)))
    assert seen == [("a", number) for number in range(-WARMUP_ROUNDS, 2)]


def test_the_collector_rests_during_a_run_and_only_then() -> None:
    assert interleave({"a": gc.isenabled}, 1) == {"a": [False]}
    assert gc.isenabled()


def test_every_run_after_the_warm_up_is_watched() -> None:
    seen: list[str] = []

    class Watching(Neighbours):
        def begin(self) -> None:
            seen.append("begin")

        def end(self, name: str) -> None:
            seen.append(name)

    interleave({"a": lambda: seen.append("run")}, 1, neighbours=Watching())
    assert seen == ["begin", "run", "begin", "run", "a"]


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
