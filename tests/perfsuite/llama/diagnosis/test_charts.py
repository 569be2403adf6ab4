"""The diagnosis as SVG files."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from perfsuite.charts import standalone
from perfsuite.errors import UsageError
from perfsuite.llama.diagnosis.charts import check_drawable, draw_charts, prediction_chart
from perfsuite.llama.diagnosis.result import Diagnosis, read_diagnosis

STORED = Path(__file__).parent / "golden" / "diagnosis.json"


@pytest.fixture(scope="module")
def result() -> Diagnosis:
    return read_diagnosis(STORED)


def words(file: Path) -> str:
    root = ElementTree.fromstring(file.read_text())  # noqa: S314 - our own
    assert root.tag.endswith("svg")
    return " ".join(" ".join(root.itertext()).split())


def test_each_chart_says_what_of_and_in_which_unit(result: Diagnosis, tmp_path: Path) -> None:
    draw_charts(result, tmp_path)
    found = {file.stem: words(file) for file in tmp_path.iterdir()}
    assert set(found) == {"transport", "breakdown", "prediction"}
    for text in found.values():
        assert f"{result.model}, {result.tokens:,} tokens" in text
    assert "payload sent" in found["transport"]
    for road in result.transport or {}:
        assert f"{road}" in found["transport"]
    assert "share of a forward pass (%)" in found["breakdown"]
    assert "claimed by the analysis" in found["breakdown"]
    assert "suggested by one 10 MB transfer" in found["prediction"]
    for row in result.prediction:
        assert row.stage in found["prediction"]
        assert f"model {row.error:+.1%}" in found["prediction"]


def test_shares_are_of_the_whole_whatever_was_measured(result: Diagnosis, tmp_path: Path) -> None:
    draw_charts(result, tmp_path)
    said = words(tmp_path / "breakdown.svg")
    for stage in result.stages:
        (told,) = re.findall(rf"{stage.name}: ((?:\w+ \d+%,? ?)+)", said)
        assert sum(map(int, re.findall(r"(\d+)%", told))) == pytest.approx(100, abs=3)


def test_without_a_single_transfer_nothing_is_suggested(tmp_path: Path) -> None:
    alone = Diagnosis(prediction=list(read_diagnosis(STORED).prediction))
    file = tmp_path / "prediction.svg"
    file.write_text(standalone(prediction_chart(alone)))
    assert "suggested" not in words(file)
    assert "predicted by the model" in words(file)


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    check_drawable(tmp_path / "new" / "one")
    assert (tmp_path / "new" / "one").is_dir()
    with pytest.raises(UsageError, match="--chart /dev/null/charts: cannot be made"):
        check_drawable(Path("/dev/null/charts"))
