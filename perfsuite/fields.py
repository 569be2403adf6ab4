"""Reading JSON that somebody else wrote: each value is checked, and an error names its place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perfsuite.errors import UsageError


@dataclass(frozen=True)
class Field:
    """A value and its place, such as ``ladder.json: stages[0].name``.

    Every method raises UsageError, naming the place, when the value is not what it asks for.
    """

    value: object
    place: str

    def get(self, name: str) -> Field | None:
        """The field ``name`` of an object; None where it is missing or null."""
        if not isinstance(self.value, dict):
            raise self._wrong("an object")
        found = self.value.get(name)
        return None if found is None else Field(found, f"{self.place}{self._dot}{name}")

    def need(self, name: str) -> Field:
        """The field ``name`` of an object, which must have it."""
        found = self.get(name)
        if found is None:
            raise UsageError(f"{self.place}{self._dot}{name}: is missing")
        return found

    def items(self) -> list[Field]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            raise self._wrong("a list")
        return [Field(item, f"{self.place}[{index}]") for index, item in enumerate(self.value)]

    def mapping(self) -> dict[str, Field]:
        """The fields of an object that are not null."""
        if not isinstance(self.value, dict):
            raise self._wrong("an object")
        named = {str(name): self.get(str(name)) for name in self.value}
        return {name: item for name, item in named.items() if item is not None}

    def text(self) -> str:
        """A text."""
        if not isinstance(self.value, str):
            raise self._wrong("a text")
        return self.value

    def number(self) -> float:
        """A finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self._wrong("a number")
        try:
            number = float(self.value)
        except OverflowError as error:
            raise self._wrong("a finite number") from error
        if not math.isfinite(number):
            raise self._wrong("a finite number")
        return number

    def positive(self) -> float:
        """A finite number above 0."""
        number = self.number()
        if number <= 0:
            raise self._wrong("a positive number")
        return number

    def not_negative(self) -> float:
        """A finite number of at least 0."""
        number = self.number()
        if number < 0:
            raise self._wrong("a number of at least 0")
        return number

    def interval(self) -> tuple[float, float]:
        """Two finite numbers: a list of two, or an object with ``low`` and ``high``."""
        ends = (
            [self.need("low"), self.need("high")] if isinstance(self.value, dict) else self.items()
        )
        if len(ends) != 2 or ends[0].number() > ends[1].number():
            raise self._wrong("an interval: a low end and a high one")
        return ends[0].number(), ends[1].number()

    def words(self) -> dict[str, str]:
        """The fields of an object as texts, for showing: whatever is neither text nor number is left out."""
        return {
            name: str(item.value)
            for name, item in self.mapping().items()
            if isinstance(item.value, str | int | float)
        }

    @property
    def _dot(self) -> str:
        return " " if self.place.endswith(":") else "."

    def _wrong(self, wanted: str) -> UsageError:
        return UsageError(f"{self.place}: must be {wanted}")


def read_json(path: Path) -> Field:
    """The content of a JSON file. Raises UsageError when it cannot be read, or is no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is damaged: {error}") from error
    if not isinstance(value, Mapping):
        raise UsageError(f"{path}: must hold a JSON object")
    return Field(value, f"{path}:")
