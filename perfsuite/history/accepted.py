"""Changes that somebody looked at and accepted, each with its reason: a TOML file under review.

[[accepted]]
subject = "fused"
commit = "1a2b3c4"
reason = "every reply is checked now"
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import UsageError
from perfsuite.fields import Field

LEAST_COMMIT = 7  # characters: fewer may mean another commit one day


@dataclass(frozen=True)
class Accepted:
    """One accepted change: of ``subject``, brought by ``commit`` (the first characters, at least 7)."""

    subject: str
    commit: str
    reason: str


def read_accepted(path: Path) -> tuple[Accepted, ...]:
    """Read the file. Raises UsageError naming what is damaged, missing or unknown in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--accepted {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--accepted {path}: is damaged: {error}") from error
    entries = Field(content, f"--accepted {path}:").mapping()
    for name in entries:
        if name != "accepted":
            raise UsageError(f"--accepted {path}: {name}: is unknown; write [[accepted]]")
    return tuple(_entry(item) for item in entries["accepted"].items()) if entries else ()


def find(entries: Iterable[Accepted], subject: str, commits: Collection[str]) -> Accepted | None:
    """The entry for a change of ``subject`` that one of ``commits`` brought."""
    for entry in entries:
        if entry.subject == subject and any(name.startswith(entry.commit) for name in commits):
            return entry
    return None


def _entry(item: Field) -> Accepted:
    fields = item.mapping()
    for name in fields:
        if name not in ("subject", "commit", "reason"):
            raise UsageError(
                f"{fields[name].place}: is unknown; subject, commit and reason are not"
            )
    entry = Accepted(*(item.need(name).text().strip() for name in ("subject", "commit", "reason")))
    if len(entry.commit) < LEAST_COMMIT:
        raise UsageError(f"{item.place}.commit: give at least {LEAST_COMMIT} characters")
    if not entry.reason:
        raise UsageError(f"{item.place}.reason: say why it is accepted")
    return entry
