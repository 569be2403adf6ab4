"""Checks of single values that come out of JSON, each refusal naming the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import CheckpointError

# Far above any real model; they bound what a hostile configuration can make us allocate.
LARGEST_WHOLE = 2**31 - 1
LARGEST_NUMBER = 1e30


def refuse(field: str, value: object, wanted: str) -> CheckpointError:
    """The error that says which field holds what, and what it must be."""
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return CheckpointError(f"config field {field!r} is {shown}; it must be {wanted}")


def whole(field: str, value: object, *, least: int = 1, most: int = LARGEST_WHOLE) -> int:
    """``value`` as an integer of ``least`` to ``most``. Raises CheckpointError."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise refuse(field, value, f"a whole number from {least} to {most}")
    return value


def number(field: str, value: object, *, above: float = 0.0, least: float | None = None) -> float:
    """``value`` as a finite float greater than ``above``, or if given, not less than ``least``.

    Raises CheckpointError.
    """
    wanted = f"a number of at least {least:g}" if least is not None else f"a number above {above:g}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise refuse(field, value, wanted)
    high_enough = value >= least if least is not None else value > above
    if not (high_enough and value <= LARGEST_NUMBER):
        raise refuse(field, value, wanted)
    return float(value)


def flag(field: str, value: object) -> bool:
    """``value`` as a bool. Raises CheckpointError."""
    if not isinstance(value, bool):
        raise refuse(field, value, "true or false")
    return value


def present(fields: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """``fields[name]``, or ``default`` where it is absent or null, as ``transformers`` reads it."""
    value = fields.get(name)
    return default if value is None else value
