"""The history as a picture."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from perfsuite.history.accepted import Known
from perfsuite.history.chart import story_chart
from perfsuite.history.command import read_stories

WriteRuns = Callable[..., list[str]]


def test_the_figures_of_an_axis_differ_however_close_the_runs_are(
    tmp_path: Path, write_runs: WriteRuns
) -> None:
    write_runs(tmp_path, [1.0001, 1.0002, 1.0003, 1.0004])
    ((story,), _) = read_stories(tmp_path, Known())
    labels = re.findall(r">([\d.]+x)<", story_chart(story))
    assert len(labels) >= 3
    assert len(set(labels)) == len(labels)
