"""The page's structure and words, held against stored files; ``pytest --update-golden`` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

VOID = ("meta", "br", "link")
MakePage = Callable[..., str]
Golden = Callable[[str, str], None]


class Outline(HTMLParser):
    """A line per element, indented, with the text that it begins with; of a chart its title and description alone."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._open: list[str] = []
        self._begun = False  # the latest line, by an element whose text may follow
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._is_shown(tag):
            self._add(" ".join([tag, *(f"{name}={value}" for name, value in sorted(attrs))]))
            self._begun = True
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()
        self._begun = False

    def handle_data(self, data: str) -> None:
        tag = self._open.pop() if self._open else ""
        if data.strip() and tag != "style" and self._is_shown(tag) and tag != "svg":
            shown = repr(" ".join(data.split()))
            if self._begun:
                self.lines[-1] += f" {shown}"
            else:
                self._add(f"  {shown}")
            self._begun = False
        if tag:
            self._open.append(tag)

    def _is_shown(self, tag: str) -> bool:
        return "svg" not in self._open or (self._open[-1] == "svg" and tag in ("title", "desc"))

    def _add(self, line: str) -> None:
        self.lines.append("  " * len(self._open) + line)


@pytest.mark.parametrize("only", [None, "gate"])
def test_the_page_is_the_stored_one(
    tmp_path: Path, make_page: MakePage, golden: Golden, only: str | None
) -> None:
    page = make_page(only=only).replace(str(tmp_path), "FOLDER")
    page = re.sub(r"Made on [\d-]+ at [\d:]+", "Made on DAY at TIME", page)
    golden(f"{only or 'all'}.txt", "\n".join(Outline(page).lines) + "\n")
