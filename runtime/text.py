"""Somebody else's text, made fit to be shown: a terminal obeys what it is shown."""

from __future__ import annotations

_LONGEST = 1000


def printable(text: str, limit: int = _LONGEST) -> str:
    """Return at most ``limit`` characters of ``text``, each that does not print replaced.

    Control characters, escape sequences' first bytes, line ends, and what changes the direction of writing
    do not print.
    """
    shown = _shown(text[:limit])
    return shown if len(text) <= limit else f"{shown}..."


def printable_lines(text: str) -> str:
    """Return all of ``text``, line ends and tabs as they are, every other character that does not print replaced."""
    return _shown(text, besides="\n\t")


def _shown(text: str, besides: str = "") -> str:
    return "".join(
        one if one.isprintable() or one in besides else "\N{REPLACEMENT CHARACTER}" for one in text
    )
