"""From runs to series: what can be compared over time, and nothing else, together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perfsuite.history.runs import Run, parse_run
from perfsuite.history.series import RATIO, SECONDS, by_place, gather

Document = Callable[..., dict[str, Any]]


def runs(*documents: dict[str, Any]) -> list[Run]:
    return [parse_run(content, Path("f.json")) for content in documents]


def test_a_series_is_of_one_subject_one_workload_and_one_machine(document: Document) -> None:
    found = gather(
        runs(
            document(0, ratio=1.5),
            document(1, ratio=1.5, subject="bf16"),
            document(2, ratio=1.6),
            document(3, ratio=1.5, machine={"cpu": "Rod 1"}),
            document(4, ratio=1.5, workload={"model": "large"}),
        )
    )
    fused = [one for one in found if one.subject == "fused"]
    assert len(found) == 4
    assert sorted(len(one.points) for one in fused) == [1, 1, 2]
    assert [one.values for one in fused if len(one.points) == 2] == [[1.5, 1.6]]
    assert len(by_place(found)) == 3
    assert sum(map(len, by_place(found).values())) == 4


def test_what_a_machine_runs_is_no_part_of_its_name(document: Document) -> None:
    """An update that costs time is a change to be seen."""
    updated = {"cpu": "Abacus 9", "torch": "3.0"}
    (series,) = gather(
        runs(
            document(0, ratio=1.5, machine={"cpu": "Abacus 9", "torch": "2.0"}),
            document(1, ratio=1.7, machine=updated),
        )
    )
    assert series.values == [1.5, 1.7]


def test_a_ratio_is_followed_where_there_is_one(document: Document) -> None:
    found = gather(runs(document(0, ratio=1.5, seconds=0.004), document(1, seconds=0.003)))
    assert {one.figure: one.values for one in found} == {RATIO: [1.5], SECONDS: [0.003]}


def test_series_are_chosen_by_a_part_of_their_names(document: Document) -> None:
    both = runs(document(0, ratio=1.5), document(1, ratio=1.4, subject="bf16"))
    assert [one.subject for one in gather(both, subject="16")] == ["bf16"]
    assert [one.subject for one in gather(both, machine="ABACUS")] == ["fused", "bf16"]
    assert gather(both, machine="rod") == []


def test_an_old_name_is_the_new_one_from_the_start(document: Document) -> None:
    both = runs(document(0, ratio=1.5, subject="parse"), document(1, ratio=1.4, subject="read"))
    (series,) = gather(both, names={"parse": "read"})
    assert (series.subject, series.values) == ("read", [1.5, 1.4])
    assert gather(both, subject="parse", names={"parse": "read"}) == []
