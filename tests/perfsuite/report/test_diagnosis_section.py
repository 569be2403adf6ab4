"""The diagnosis on the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from perfsuite.llama.diagnosis.result import (
    Curve,
    Diagnosis,
    Prediction,
    Projected,
    Projection,
    Route,
    Sweep,
    read_diagnosis,
)
from perfsuite.llama.results import PHASES
from perfsuite.render.blocks import MISSING
from perfsuite.report.diagnosis_section import (
    prediction_section,
    projection_section,
    transport_section,
)

STORED = Path(__file__).parents[1] / "llama" / "diagnosis" / "golden" / "diagnosis.json"

MakePage = Callable[..., str]


def test_what_if_is_shown_as_a_projection(make_page: MakePage) -> None:
    found = re.search('<section id="what-if".*?</section>', make_page(), re.DOTALL)
    assert found is not None
    for words in ("device=abacus", "not a measurement", "Abacus 9: published peaks (Datasheet)"):
        assert words in found[0]
    assert "500 ms, 2.0x" in found[0]


def test_what_was_not_diagnosed_has_no_section() -> None:
    empty = Diagnosis(prediction=[])
    for made in (transport_section, prediction_section, projection_section):
        assert made(empty) is None
    swept_of_nothing = Diagnosis(prediction=[], transport={"zmq-ipc": None, "zmq-tcp": Route()})
    assert transport_section(swept_of_nothing) is None


def test_throughput_is_bytes_over_seconds() -> None:
    sent = Sweep(Curve(bytes=(1000, 2_000_000), round_trip_s=(1e-3, 1e-2)))
    section = transport_section(
        Diagnosis(prediction=[], transport={"unix": Route(cold=sent)}, command="as run")
    )
    assert section is not None
    swept, throughput = section.figures  # one way of calling alone was measured
    assert swept.table is not None
    assert [tuple(row.cells) for row in swept.table.rows] == [
        ("unix", "1 KB", "1 ms", "1 MB/s"),
        ("unix", "2 MB", "10 ms", "200 MB/s"),
    ]
    assert "unix: 2 MB, 200 MB/s" in throughput.chart
    assert {figure.command for figure in section.figures} == {"as run"}


def test_every_prediction_is_judged_in_words() -> None:
    diagnosis = read_diagnosis(STORED)
    section = prediction_section(diagnosis)
    assert section is not None
    assert len(section.blocks) == 1 + sum(bool(row.bound) for row in diagnosis.prediction)


def test_a_stage_that_was_not_measured_has_no_gain() -> None:
    stages = [
        Projected(
            name=name,
            projected_s=0.5,
            phases_s=dict.fromkeys(PHASES, 0.1),
            bound="memory",
            rpc_count=3,
        )
        for name in ("fused", "new")
    ]
    measured = [Prediction(stage="fused", predicted_s=1.1, measured_s=1.0, error=0.1)]
    section = projection_section(
        Diagnosis(prediction=measured, projection=Projection(assumed=["rpc=3"], stages=stages))
    )
    assert section is not None
    (figure,) = section.figures
    assert figure.table is not None
    known, unknown = figure.table.rows
    assert "2.0x" in known.cells
    assert "2.0x" not in unknown.cells
    assert list(unknown.cells).count(MISSING) == 2  # seconds now, and what was gained
