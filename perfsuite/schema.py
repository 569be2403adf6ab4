"""Files as structs of msgspec's: a file's schema is declared once, and an error names the file and the field.

What is read may be anybody's: each value is held to the type and the bounds that its field declares. A field that
no schema names is left alone, unless the struct forbids it; null where a value must be counts as missing.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from perfsuite.errors import UsageError

if TYPE_CHECKING:
    from perfsuite.statistics import Estimate

_MOST = sys.float_info.max  # neither an infinity nor NaN lies within
_MOST_DIGITS = 308  # of a whole number that surely has a float

Finite = Annotated[float, Meta(ge=-_MOST, le=_MOST)]
NotNegative = Annotated[float, Meta(ge=0, le=_MOST)]
Positive = Annotated[float, Meta(gt=0, le=_MOST)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]

Content = TypeVar("Content")


class Interval(Struct, frozen=True):
    """The ends of an interval, in the unit of the figure that it belongs to."""

    low: Finite
    high: Finite

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("must be an interval: a low end and a high one")

    @classmethod
    def of(cls, estimate: Estimate) -> Interval:
        """Return the ends of an estimate."""
        return Interval(estimate.low, estimate.high)


class Ends(Interval, frozen=True, array_like=True):
    """An interval that a file holds as ``[low, high]``."""


class FieldError(ValueError):
    """Raised by a struct's own check: which of its fields is wrong, and the problem."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


def read(path: Path, kind: type[Content]) -> Content:
    """Return what a JSON file holds.

    Raises:
        UsageError: naming the file, and the field in it that is missing or wrong.
    """
    return decode(read_json(path), kind, str(path))


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, unchecked.

    Raises:
        UsageError: naming the file, if it cannot be read or is no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is damaged: {error}") from error
    return parse_json(text, str(path))


def parse_json(
    text: str, place: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Return what a text holds, unchecked; ``pairs`` makes an object of its names and values.

    Python's own parser reads what other programs write: NaN, and halves of surrogate pairs, may stand in fields
    that nobody looks at.

    Raises:
        UsageError: after ``place``, if it is no JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: is damaged: {error}") from error


def decode(content: Any, kind: type[Content], place: str, below: str = "") -> Content:
    """Return ``content``, which was read from ``place``, there ``below`` a field, as a ``kind``.

    Raises:
        UsageError: naming the place, and the field that is missing or wrong.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        path, problem = _told(content, kind, error)
        where = ": ".join(part for part in (place, _joined(below, path)) if part)
        raise UsageError(f"{where}: {problem}") from error
    except ValueError as error:  # a name that is no text of whole characters
        raise UsageError(f"{place}: is damaged: {error}") from error


def words(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the values as texts, for showing: whatever is neither text nor number is left out."""
    return {
        name: str(value) for name, value in content.items() if isinstance(value, str | int | float)
    }


# Errors

_PATH = re.compile(r" - at (?:`key` in )?`\$(?P<path>[^`]*)`\Z")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(?:(\d+)|\.\.\.)\]")
_LACKING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def _told(content: Any, kind: type, error: msgspec.ValidationError) -> tuple[str, str]:
    """Return the path of the field that is wrong, and the problem with it."""
    text = str(error)
    at = _PATH.search(text)
    path = _named(content, kind, text, at["path"]) if at else ""
    if isinstance(error.__cause__, FieldError):
        return _joined(path, error.__cause__.field), error.__cause__.problem
    problem = text[: at.start()] if at else text
    for known, words_for in ((_LACKING, "is missing"), (_UNKNOWN, "is unknown")):
        field = known.fullmatch(problem)
        if field:
            return _joined(path, field[1]), words_for
    if problem.endswith("got `null`"):
        return path, "is missing"
    if problem.endswith(repr(_MOST)):
        return path, "must be a finite number"
    return path, problem[:1].lower() + problem[1:]


def _named(content: Any, kind: type, text: str, path: str) -> str:
    """Return ``path`` with the names of an object's fields, for which msgspec writes ``[...]``."""
    steps: list[str | int] = []
    for name, index in _STEP.findall(path):
        if name or index:
            steps.append(name or int(index))
        else:
            found, content = _culprit(content, kind, text, steps)
            steps.append(found)
    told = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return told.removeprefix(".")


def _culprit(content: Any, kind: type, text: str, steps: Sequence[str | int]) -> tuple[str, Any]:
    """Return which field of the object at ``steps`` is refused by itself too, and ``content`` with only that."""
    values = content
    for step in steps:
        values = values[step]
    for name in values:
        alone = _with_only(content, steps, name)
        if _refusal(alone, kind) == text:
            return name, alone
    return "...", content


def _with_only(content: Any, steps: Sequence[str | int], name: str) -> Any:
    if not steps:
        return {name: content[name]}
    first, *rest = steps
    changed = copy.copy(content)
    changed[first] = _with_only(content[first], rest, name)
    return changed


def _refusal(content: Any, kind: type) -> str:
    try:
        msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        return str(error)
    return ""


def _joined(path: str, field: str) -> str:
    return f"{path}.{field}" if path and field and not field.startswith("[") else path + field


def _whole(text: str) -> int | float:
    # More digits may be more than a float holds, which msgspec must not be asked to make of them.
    return int(text) if len(text) <= _MOST_DIGITS else float(text)
