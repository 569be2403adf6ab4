"""What somebody knows of the stored runs: a TOML file under review.

Changes that were looked at and accepted, each with its reason, and subjects that have another name now.

[[accepted]]
subject = "fused"
commit = "1a2b3c4"
reason = "every reply is checked now"

[[renamed]]
old = "parse"
new = "parse config"
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Known:
    """What the file holds: ``names`` maps old names of subjects to new ones."""

    accepted: tuple[Accepted, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


def read_known(path: Path) -> Known:
    """Read the file. Raises UsageError naming what is damaged, missing or unknown in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--accepted {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--accepted {path}: is damaged: {error}") from error
    entries = Field(content, f"--accepted {path}:").mapping()
    for name in entries:
        if name not in ("accepted", "renamed"):
            raise UsageError(
                f"--accepted {path}: {name}: is unknown; write [[accepted]] or [[renamed]]"
            )
    accepted = entries["accepted"].items() if "accepted" in entries else ()
    renamed = entries["renamed"].items() if "renamed" in entries else ()
    return Known(tuple(map(_entry, accepted)), _names(renamed))


def _names(items: Iterable[Field]) -> dict[str, str]:
    """Return the present name for each old one, through as many renamings as there were."""
    names: dict[str, str] = {}
    for item in items:
        old, new = (_only(item, "old", "new")[name] for name in ("old", "new"))
        if old in names:
            raise UsageError(f"{item.place}.old: {old} is renamed twice")
        names[old] = new
        if _last(names, new) == old:
            raise UsageError(f"{item.place}.new: {new} becomes {old} again")
    return {old: _last(names, new) for old, new in names.items()}


def _last(names: Mapping[str, str], name: str) -> str:
    seen = {name}
    while name in names and names[name] not in seen:
        name = names[name]
        seen.add(name)
    return name


def _only(item: Field, *names: str) -> dict[str, str]:
    """Return the texts of an entry that has exactly these fields."""
    fields = item.mapping()
    for name in fields:
        if name not in names:
            known = f"{', '.join(names[:-1])} and {names[-1]}"
            raise UsageError(f"{fields[name].place}: is unknown; {known} are not")
    return {name: item.need(name).text().strip() for name in names}


def find(entries: Iterable[Accepted], subject: str, commits: Collection[str]) -> Accepted | None:
    """The entry for a change of ``subject`` that one of ``commits`` brought."""
    for entry in entries:
        if entry.subject == subject and any(name.startswith(entry.commit) for name in commits):
            return entry
    return None


def _entry(item: Field) -> Accepted:
    entry = Accepted(**_only(item, "subject", "commit", "reason"))
    if len(entry.commit) < LEAST_COMMIT:
        raise UsageError(f"{item.place}.commit: give at least {LEAST_COMMIT} characters")
    if not entry.reason:
        raise UsageError(f"{item.place}.reason: say why it is accepted")
    return entry
