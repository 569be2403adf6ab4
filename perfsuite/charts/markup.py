"""HTML and SVG that cannot be broken by what they show: every text is escaped unless it is markup."""

from __future__ import annotations

import html
import re

# What XML does not allow, escaped or not; a lone surrogate cannot even be written to a file.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_EMPTY = ("meta", "br", "link")  # HTML elements without an end


class Markup(str):
    """Text that is markup already: what ``element`` returns, and nothing that a user wrote."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Any text as markup that shows just that text."""
    return Markup(html.escape(_FORBIDDEN.sub("\ufffd", text)))


def join(*parts: str | None) -> Markup:
    """Parts one after the other, each escaped unless it is markup; None is nothing."""
    return Markup("".join(_safe(part) for part in parts if part is not None))


def element(name: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """``<name attribute="value">children</name>``.

    An attribute's underscores become hyphens and one at its end is dropped (``class_``); None leaves
    it out. Numbers are written with at most two decimals.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def number(value: float) -> str:
    """At most two decimals, none that says nothing."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _attribute(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else number(value)


def _safe(part: str) -> str:
    return part if isinstance(part, Markup) else escape(part)
