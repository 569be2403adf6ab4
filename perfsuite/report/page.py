"""The whole page: one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files

from perfsuite.charts.markup import Markup, element
from perfsuite.history.explaining import Story
from perfsuite.report import parts
from perfsuite.report.diagnosis import Diagnosis
from perfsuite.report.diagnosis_section import prediction_section, transport_section
from perfsuite.report.gate_section import gate_section
from perfsuite.report.history_section import history_section
from perfsuite.report.inputs import GateReport, Ladder
from perfsuite.report.ladder_section import heading, ladder_section, speedup_section

SECTIONS = {
    "ladder": "Ladder",
    "speedup": "Speed-up",
    "transports": "Transports",
    "prediction": "Cost model",
    "verdicts": "Verdicts",
    "history": "History",
    "provenance": "Provenance",
}
# No page of ours loads anything; this makes the browser refuse it too.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Inputs:
    """What a page is made from; None and nothing leave their sections out."""

    ladder: Ladder | None = None
    diagnosis: Diagnosis | None = None
    gate: GateReport | None = None
    stories: Sequence[Story] = ()
    storage: str = ".benchmarks"
    unreadable: Sequence[str] = ()
    command: str = "perfsuite report"


def render(inputs: Inputs, made: datetime | None = None) -> str:
    """The page as HTML."""
    made = made or datetime.now(UTC)
    ladder = inputs.ladder
    title = f"split-llama: {ladder.model}, {ladder.tokens:,} tokens" if ladder else "split-llama"
    style = "".join(
        files(package).joinpath(name).read_text(encoding="utf-8")
        for package, name in (
            ("perfsuite.charts", "charts.css"),
            ("perfsuite.report", "report.css"),
        )
    )
    menu = element(
        "nav",
        element(
            "ul",
            *(
                element("li", element("a", word, href=f"#{name}"))
                for name, word in SECTIONS.items()
            ),
        ),
        aria_label="Sections",
    )
    header = element(
        "header",
        element("p", "split-llama", class_="brand"),
        element("h1", heading(ladder) if ladder else "Performance report"),
        element("p", f"Made on {made:%Y-%m-%d at %H:%M} UTC", class_="note"),
        menu,
    )
    main = element(
        "main",
        ladder_section(ladder),
        speedup_section(ladder),
        transport_section(inputs.diagnosis),
        prediction_section(inputs.diagnosis),
        gate_section(inputs.gate),
        history_section(inputs.stories, inputs.storage),
        _provenance(inputs),
        id="main",
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )
    skip = element("a", "Skip to the content", href="#main", class_="skip")
    page = element("html", head, element("body", skip, header, main), lang="en")
    return f"<!doctype html>\n{page}\n"


def _provenance(inputs: Inputs) -> Markup:
    """On which machine each part was measured, and by which command."""
    panels = []
    for name, part in (
        ("Ladder", inputs.ladder),
        ("Diagnosis", inputs.diagnosis),
        ("Verdicts", inputs.gate),
    ):
        if part is not None:
            panels.append(parts.definitions(name, _words(part.machine, part.command)))
    if inputs.stories:
        machines = dict.fromkeys(story.series.machine for story in inputs.stories)
        panels.append(
            parts.definitions(
                "History",
                [
                    *(("machine", machine) for machine in machines),
                    *(("left out", line) for line in inputs.unreadable),
                    ("command", f"perfsuite history --storage {inputs.storage}"),
                ],
            )
        )
    panels.append(parts.definitions("This page", [("command", inputs.command)]))
    return parts.section(
        "provenance", "Machine and provenance", element("div", *panels, class_="figures")
    )


def _words(machine: Mapping[str, str], command: str) -> list[tuple[str, str]]:
    return [
        *((name.replace("_", " "), value) for name, value in machine.items()),
        ("command", command),
    ]
