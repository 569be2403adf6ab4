"""What the gate samples, from pools that note what is asked of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from perfsuite import pairs
from perfsuite.gate.gate import BASE
from perfsuite.processes.forkserver import FailedTest
from perfsuite.processes.pool import Pool


class Sampled:
    """A process that is stopped at its gate."""

    def __init__(self, title: str) -> None:
        self.server, self.notes = f"{title} server", [f"{title} note"]
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def calibrate(self, role: str, run_s: float) -> tuple[int, float]:
        self.asked.append((role, {"run_s": run_s}))
        return 3, run_s

    def measure(self, role: str, **wanted: Any) -> str:
        self.asked.append((role, wanted))
        return f"{role} of {self.server}"


class Noting:
    def __init__(self, title: str, *, fails: bool = False) -> None:
        self.sampled, self._title, self._fails = Sampled(title), title, fails
        self.opened: list[tuple[str, str, Mapping[str, Any]]] = []
        self.open_now = 0

    @property
    def pool(self) -> Pool:
        return cast("Pool", self)

    @contextmanager
    def open(self, node: str, benchmark: str, **wanted: Any) -> Iterator[Sampled]:
        if self._fails:
            raise FailedTest(f"{self._title}: no")
        self.opened.append((node, benchmark, wanted))
        self.open_now += 1
        try:
            yield self.sampled
        finally:
            self.open_now -= 1


@pytest.mark.parametrize("references", [["own"], ["interpreter", "memory"]])
def test_a_subject_and_its_references_are_in_one_process(references: Sequence[str]) -> None:
    one = Noting("it")
    opened = pairs.within(one.pool, "node", "mine", cpu=1, delays={"total": 2.0})
    with opened(references) as pair:
        assert one.open_now == 1
        assert list(pair.references) == references
        assert {pair.subject.process, *(each.process for each in pair.references.values())} == {0}
        assert pair.subject.calibrate(0.5) == (3, 0.5)
        assert cast("object", pair.subject.measure(4, 3, 2)) == "subject of it server"
        pair.references[references[-1]].measure(1, 5, 0)
    assert one.open_now == 0
    assert one.opened == [
        ("node", "mine", {"references": references, "cpu": 1, "delays": {"total": 2.0}})
    ]
    assert one.sampled.asked == [
        ("subject", {"run_s": 0.5}),
        ("subject", {"runs": 4, "loops": 3, "discarded": 2}),
        (references[-1], {"runs": 1, "loops": 5, "discarded": 0}),
    ]
    assert (pair.server, pair.notes) == ("it server", ["it note"])


def test_head_and_base_are_in_processes_of_their_own_and_only_head_is_slowed() -> None:
    head, base = Noting("head"), Noting("base")
    opened = pairs.between(
        head.pool, base.pool, ("here", "there"), "mine", cpu=0, delays={"total": 2.0}
    )
    with opened([BASE]) as pair:
        assert (head.open_now, base.open_now) == (1, 1)
        assert pair.subject.process != pair.references[BASE].process
        assert cast("object", pair.subject.measure(1, 1, 0)) == "subject of head server"
        assert cast("object", pair.references[BASE].measure(1, 1, 0)) == "subject of base server"
    assert (head.open_now, base.open_now) == (0, 0)
    assert head.opened == [("here", "mine", {"cpu": 0, "delays": {"total": 2.0}})]
    assert base.opened == [("there", "mine", {"cpu": 0})]
    assert pair.server == "head server/base server"
    assert pair.notes == ["head note", "base note"]


def test_where_base_cannot_be_opened_head_is_closed() -> None:
    head, base = Noting("head"), Noting("base", fails=True)
    opened = pairs.between(head.pool, base.pool, ("n", "n"), "mine", cpu=None, delays={})
    with pytest.raises(FailedTest, match="base: no"), opened([BASE]):
        pass
    assert head.open_now == 0
