"""The seed corpora, and blind changes of them. ``make fuzz`` is the long form, guided by coverage."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.runtime.fuzz.mutations import mutated
from tests.runtime.fuzz.targets import TARGETS, Run

CHANGES = 300


@pytest.fixture(scope="module", params=TARGETS)
def attacked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Run]]:
    """A target that is opened, with its name."""
    name: str = request.param
    with TARGETS[name].open(tmp_path_factory.mktemp("t")) as run:
        yield name, run


def test_every_seed_is_taken_or_refused_as_its_name_says(attacked: tuple[str, Run]) -> None:
    name, run = attacked
    target, wrong = TARGETS[name], {}
    for seed in target.seeds:
        found = run(seed.read_bytes())
        if (target.decides or target.takes(seed)) and (found is None) != target.takes(seed):
            wrong[seed.name] = found
    assert not wrong


def test_no_blind_change_of_a_seed_does_more_than_an_error(attacked: tuple[str, Run]) -> None:
    name, run = attacked
    chance = random.Random(name)
    seeds = [seed.read_bytes() for seed in TARGETS[name].seeds]
    for _ in range(CHANGES):
        data = mutated(chance, chance.choice(seeds), chance.choice(seeds))
        try:
            run(data)
        except BaseException as error:
            error.add_note(f"of {data!r}")
            raise
