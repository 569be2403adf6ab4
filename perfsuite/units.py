"""Figures as people read them: three significant digits and the unit that suits."""

from __future__ import annotations

import math

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def seconds(value: float) -> str:
    """Return seconds with a unit from ns to s: 4.12e-7 is "412 ns"."""
    if not math.isfinite(value):
        return "-"
    for size, unit in _UNITS:
        if abs(value) >= size * 0.9995 or unit == "ns":
            return f"{_three(value / size)} {unit}"
    return "-"


def percent(share: float) -> str:
    """Return a change with its sign: 0.1 is "+10.0 %"."""
    if not math.isfinite(share):
        return "-"
    return f"{share:+.1%}"


def _three(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:.{max(0, 2 - exponent)}f}"
