"""From runs to series: one subject, one workload and one machine over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from perfsuite.history.runs import Measurement, Run

RATIO, SECONDS = "ratio", "seconds"


@dataclass(frozen=True)
class Point:
    """One run in a series."""

    value: float
    commit: str
    dirty: bool
    committed: datetime
    measurement: Measurement


@dataclass(frozen=True)
class Series:
    """What can be compared over time. ``figure`` says what the values are: RATIO or SECONDS."""

    subject: str
    workload: str
    machine: str
    figure: str
    points: tuple[Point, ...]

    @property
    def values(self) -> list[float]:
        """One positive figure per run, the oldest commit first."""
        return [point.value for point in self.points]


def gather(
    runs: Iterable[Run],
    *,
    subject: str | None = None,
    machine: str | None = None,
    names: Mapping[str, str] | None = None,
) -> list[Series]:
    """The series in ``runs``, which are in order of time; sorted by machine, workload and appearance.

    ``subject`` and ``machine`` keep those whose name holds that text; ``names`` maps subjects' old names to
    new ones. A ratio is followed where there
    is one, because it moves less with the machine than seconds do. What a machine runs (torch, driver,
    kernel) is no part of its name: an update that costs time is a change to be seen.
    """
    found: dict[tuple[str, str, str, str], list[Point]] = {}
    for run in runs:
        for measurement in run.measurements:
            name = (names or {}).get(measurement.subject, measurement.subject)
            if subject is not None and subject not in name:
                continue
            if machine is not None and machine.lower() not in measurement.machine.lower():
                continue
            ratio = measurement.ratio
            figure, value = (SECONDS, measurement.seconds) if ratio is None else (RATIO, ratio)
            key = (measurement.machine, measurement.workload, name, figure)
            point = Point(value, run.commit, run.dirty, run.committed, measurement)
            found.setdefault(key, []).append(point)
    series = [
        Series(name, workload, where, figure, tuple(points))
        for (where, workload, name, figure), points in found.items()
    ]
    return sorted(series, key=lambda one: (one.machine, one.workload))


def by_place(series: Sequence[Series]) -> dict[tuple[str, str], list[Series]]:
    """The series of each machine and workload."""
    places: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        places.setdefault((one.machine, one.workload), []).append(one)
    return places
