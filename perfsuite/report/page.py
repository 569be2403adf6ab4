"""The whole page: one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from perfsuite.gate.reported import Report
from perfsuite.llama.diagnosis.result import Diagnosis
from perfsuite.llama.results import Ladder
from perfsuite.llama.table import heading
from perfsuite.render.html import environment
from perfsuite.report.diagnosis_section import (
    prediction_section,
    projection_section,
    transport_section,
)
from perfsuite.report.gate_section import gate_section
from perfsuite.report.history_section import history_section
from perfsuite.report.ladder_section import ladder_section, speedup_section
from perfsuite.report.parts import Origin
from perfsuite.schema import words

if TYPE_CHECKING:
    from perfsuite.history.explaining import Story  # whose arithmetic needs the extra history


@dataclass(frozen=True)
class Inputs:
    """What a page is made from, and by which command; None and nothing leave their sections out."""

    command: str
    ladder: Ladder | None = None
    diagnosis: Diagnosis | None = None
    gate: Report | None = None
    stories: Sequence[Story] = ()
    storage: str = ""
    unreadable: Sequence[str] = ()


def render(inputs: Inputs, made: datetime | None = None) -> str:
    """The page as HTML."""
    ladder, diagnosis = inputs.ladder, inputs.diagnosis
    sections = [
        ladder_section(ladder) if ladder else None,
        speedup_section(ladder) if ladder else None,
        transport_section(diagnosis) if diagnosis else None,
        prediction_section(diagnosis) if diagnosis else None,
        projection_section(diagnosis) if diagnosis else None,
        gate_section(inputs.gate) if inputs.gate else None,
        history_section(inputs.stories, inputs.command),
    ]
    title = f"split-llama: {ladder.model}, {ladder.tokens:,} tokens" if ladder else "split-llama"
    return (
        environment()
        .get_template("report/page.html.j2")
        .render(
            title=title,
            heading=heading(ladder) if ladder else "Performance report",
            made=f"{made or datetime.now(UTC):%Y-%m-%d at %H:%M}",
            sections=[section for section in sections if section is not None],
            origins=_origins(inputs),
        )
    )


def _origins(inputs: Inputs) -> list[Origin]:
    """On which machine each part was measured, and by which command."""
    parts = {"Ladder": inputs.ladder, "Diagnosis": inputs.diagnosis, "Verdicts": inputs.gate}
    origins = [
        Origin(name, _words(words(part.machine or {}), part.command))
        for name, part in parts.items()
        if part is not None
    ]
    if inputs.stories:
        machines = dict.fromkeys(story.series.machine for story in inputs.stories)
        told = [("machine", machine) for machine in machines]
        told += [("left out", line) for line in inputs.unreadable]
        origins.append(Origin("History", [*told, ("stored in", inputs.storage)]))
    return [*origins, Origin("This page", [("command", inputs.command)])]


def _words(machine: Mapping[str, str], command: str) -> list[tuple[str, str]]:
    told = [(name.replace("_", " "), value) for name, value in machine.items()]
    return [*told, ("command", command)]
