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

from msgspec import Struct
from msgspec.structs import asdict, force_setattr

from perfsuite.errors import UsageError
from perfsuite.schema import FieldError, decode

LEAST_COMMIT = 7  # characters: fewer may mean another commit one day


class _Stripped(Struct, frozen=True, forbid_unknown_fields=True):
    """Texts without the spaces around them."""

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            force_setattr(self, name, text.strip())


class Accepted(_Stripped, frozen=True):
    """One accepted change: of ``subject``, brought by ``commit`` (the first characters, at least 7)."""

    subject: str
    commit: str
    reason: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.commit) < LEAST_COMMIT:
            raise FieldError("commit", f"give at least {LEAST_COMMIT} characters")
        if not self.reason:
            raise FieldError("reason", "say why it is accepted")


class _Renamed(_Stripped, frozen=True):
    """A subject's name, and the one before it."""

    old: str
    new: str


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    """Both lists."""

    accepted: tuple[Accepted, ...] = ()
    renamed: tuple[_Renamed, ...] = ()


@dataclass(frozen=True)
class Known:
    """What the file holds: ``names`` maps old names of subjects to new ones."""

    accepted: tuple[Accepted, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


def read_known(path: Path) -> Known:
    """Read the file. Raises UsageError naming what is damaged, missing or unknown in it."""
    place = f"--accepted {path}"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{place}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{place}: is damaged: {error}") from error
    file = decode(content, _File, place)
    return Known(file.accepted, _names(file.renamed, place))


def _names(renamed: Iterable[_Renamed], place: str) -> dict[str, str]:
    """Return the present name for each old one, through as many renamings as there were."""
    names: dict[str, str] = {}
    for number, one in enumerate(renamed):
        if one.old in names:
            raise UsageError(f"{place}: renamed[{number}].old: {one.old} is renamed twice")
        names[one.old] = one.new
        if _last(names, one.new) == one.old:
            raise UsageError(f"{place}: renamed[{number}].new: {one.new} becomes {one.old} again")
    return {old: _last(names, new) for old, new in names.items()}


def _last(names: Mapping[str, str], name: str) -> str:
    seen = {name}
    while name in names and names[name] not in seen:
        name = names[name]
        seen.add(name)
    return name


def find(entries: Iterable[Accepted], subject: str, commits: Collection[str]) -> Accepted | None:
    """The entry for a change of ``subject`` that one of ``commits`` brought."""
    for entry in entries:
        if entry.subject == subject and any(name.startswith(entry.commit) for name in commits):
            return entry
    return None
