"""What else changed where a series changed its level: commits, phases, budgets, versions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from perfsuite.history import accepted
from perfsuite.history.accepted import Accepted
from perfsuite.history.change_points import ChangePoint, Trend, detect
from perfsuite.history.series import Point, Series

GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Explained:
    """A change point and what is known of it.

    ``last_before`` and ``first_after`` are the commits of the runs at both sides of it; the change lies
    after the first of ``widest`` and not after the second with 95 % confidence. ``moved`` holds what
    changed with it, in words.
    """

    change: ChangePoint
    last_before: str
    first_after: str
    widest: tuple[str, str]
    moved: tuple[str, ...]
    accepted: Accepted | None


@dataclass(frozen=True)
class Story:
    """A series, its trend, and its changes."""

    series: Series
    trend: Trend
    changes: tuple[Explained, ...]


def explain(
    series: Series, entries: Sequence[Accepted] = (), repository: Path | None = None
) -> Story:
    """Find the changes of ``series`` and what belongs to each.

    ``repository`` is where git may be asked for the commits between two runs; without it, or where it
    does not know them, an accepted commit must be one that was measured.
    """
    trend = detect(series.values)
    places = [0, *(change.index for change in trend.changes), len(series.points)]
    changes = [
        _explained(series, change, places[number], places[number + 2], entries, repository)
        for number, change in enumerate(trend.changes)
    ]
    return Story(series, trend, tuple(changes))


def unused(entries: Iterable[Accepted], stories: Iterable[Story]) -> list[Accepted]:
    """The accepted changes that none of ``stories`` has."""
    used = {explained.accepted for story in stories for explained in story.changes}
    return [entry for entry in entries if entry not in used]


def as_json(story: Story) -> dict[str, Any]:
    """A series with its runs and changes as plain JSON."""
    series = story.series
    return {
        "subject": series.subject,
        "workload": series.workload,
        "machine": series.machine,
        "figure": series.figure,
        "noise": {"sd": story.trend.spread, "autocorrelation": story.trend.phi},
        "runs": [
            {
                "commit": point.commit,
                "dirty": point.dirty,
                "committed": point.committed.isoformat(),
                "value": point.value,
                "level": level,
                "latency_ms": point.measurement.seconds * 1e3,
                "verdict": point.measurement.verdict,
                "phases": dict(point.measurement.phases),
                "budgets": dict(point.measurement.budgets),
                "versions": dict(point.measurement.versions),
            }
            for point, level in zip(series.points, story.trend.levels, strict=True)
        ],
        "changes": [
            {
                "run": explained.change.index,
                "size": explained.change.size.value,
                "size_interval": [explained.change.size.low, explained.change.size.high],
                "last_before": explained.last_before,
                "first_after": explained.first_after,
                "widest": list(explained.widest),
                "moved": list(explained.moved),
                "accepted": explained.accepted.reason if explained.accepted else None,
            }
            for explained in story.changes
        ],
    }


def _explained(
    series: Series,
    change: ChangePoint,
    start: int,
    end: int,
    entries: Sequence[Accepted],
    repository: Path | None,
) -> Explained:
    points = series.points
    widest = points[change.earliest - 1].commit, points[change.latest].commit
    mine = [entry for entry in entries if entry.subject == series.subject]
    commits = (
        {point.commit for point in points[change.earliest : change.latest + 1]} if mine else set()
    )
    if mine and repository is not None:
        commits |= _commits_between(*widest, repository)
    return Explained(
        change=change,
        last_before=points[change.index - 1].commit,
        first_after=points[change.index].commit,
        widest=widest,
        moved=_moved(
            points[start : change.index], points[change.index : end], change.size.value > 1
        ),
        accepted=accepted.find(mine, series.subject, commits),
    )


def _moved(before: Sequence[Point], after: Sequence[Point], slower: bool) -> tuple[str, ...]:
    old, new = before[-1].measurement, after[0].measurement
    words = []
    phases = {
        name: _mean(after, name) - _mean(before, name) for name in old.phases if name in new.phases
    }
    if phases:
        sign = 1 if slower else -1
        name = max(phases, key=lambda phase: sign * phases[phase])
        if sign * phases[name] > 0:
            words.append(f"mostly {name} ({phases[name]:+.3f} of the reference's time)")
    words += _differences(old.budgets, new.budgets) + _differences(old.versions, new.versions)
    return tuple(words)


def _mean(points: Sequence[Point], phase: str) -> float:
    phases = [point.measurement.phases for point in points]
    return fmean(shares[phase] for shares in phases if phase in shares)


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return [
        f"{name} {old[name]} -> {new[name]}"
        for name in old
        if name in new and old[name] != new[name]
    ]


def _commits_between(before: str, after: str, repository: Path) -> set[str]:
    """The commits after ``before`` up to ``after``; none where git does not know them."""
    if not (before.isalnum() and after.isalnum()):
        return set()
    try:
        listed = subprocess.run(
            ["git", "rev-list", f"{before}..{after}"],  # noqa: S607 - whichever git the user has
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return set()
    return set(listed.split())
