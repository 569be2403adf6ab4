"""A section as plain data, and what the page makes of each of its parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from perfsuite.report import parts

TEMPLATE = Path(parts.__file__).with_name("page.html.j2")


@pytest.mark.parametrize(
    ("kind", "name"), [(parts.Section, "section"), (parts.Figure, "figure"), (parts.Origin, "origin")]
)  # fmt: skip
def test_the_page_shows_every_part(kind: type, name: str) -> None:
    """What the template does not name is never shown."""
    text = TEMPLATE.read_text()
    for field in dataclasses.fields(kind):
        assert f"{name}.{field.name}" in text, field.name


def test_a_section_is_whole_without_anything_optional() -> None:
    section = parts.Section("ladder", "Ladder", "The ladder")
    assert (section.blocks, section.figures, section.rest) == ((), (), "")
    assert parts.Figure("<svg/>", "caption").table is None
