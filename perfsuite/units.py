"""Figures as people read them: three significant digits and the unit that suits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfsuite.statistics import Estimate

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "B"))


def seconds(value: float) -> str:
    """Return seconds with a unit from ns to s: 4.12e-7 is "412 ns"."""
    if not math.isfinite(value):
        return "-"
    for size, unit in _UNITS:
        if abs(value) >= size * 0.9995 or unit == "ns":
            return f"{_three(value / size)} {unit}"
    return "-"


def brief_seconds(value: float, digits: int = 3) -> str:
    """Return seconds as an axis has them, without zeros that say nothing: 3.5e-5 is "35 us"."""
    return _brief(value, _UNITS, digits)


def size(count: float) -> str:
    """Return bytes in powers of ten: 1.34e8 is "134 MB"."""
    return _brief(count, _BYTES, 3)


def percent(share: float) -> str:
    """Return a change with its sign: 0.1 is "+10.0 %"."""
    if not math.isfinite(share):
        return "-"
    return f"{share:+.1%}"


def change(found: Estimate) -> str:
    """Return a ratio as a change with its interval: "+10.2% [+8.0%, +12.5%]"."""
    return f"{percent(found.value - 1)} [{percent(found.low - 1)}, {percent(found.high - 1)}]"


def counted(number: int | str, what: str) -> str:
    """Return a number of things: "1 run", "2 runs"."""
    shown = number if isinstance(number, str) else f"{number:,}"
    return f"{shown} {what}{'' if shown == '1' else 's'}"


def _brief(value: float, units: Sequence[tuple[float, str]], digits: int) -> str:
    if value == 0:
        return "0"
    # What would be shown as 1000 of a unit is 1 of the next.
    scale, unit = next((pair for pair in units if abs(value) >= pair[0] * 0.9995), units[-1])
    return f"{value / scale:.{digits}g} {unit}"


def _three(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:.{max(0, 2 - exponent)}f}"
