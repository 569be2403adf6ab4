from __future__ import annotations

import sys

import pytest

from perfsuite.processes.benchmark import command
from perfsuite.processes.references import REFERENCES, offered


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_does_the_same_work_each_time(name: str) -> None:
    assert REFERENCES[name]() == REFERENCES[name]()


def test_only_what_starts_programs_is_held_against_starting_programs() -> None:
    assert offered(len) == ["interpreter", "memory", "arithmetic"]
    assert offered(command([sys.executable])) == [*offered(len), "program"]
