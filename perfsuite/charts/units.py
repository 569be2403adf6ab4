"""Figures with three significant digits, or as many as are asked for, in the unit that suits."""

from __future__ import annotations

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "B"))


def seconds(value: float, digits: int = 3) -> str:
    """``1.2 s``, ``350 us``."""
    return _scaled(value, _SECONDS, digits)


def size(count: float) -> str:
    """``134 MB``, in powers of ten."""
    return _scaled(count, _BYTES)


def _scaled(value: float, units: tuple[tuple[float, str], ...], digits: int = 3) -> str:
    if value == 0:
        return "0"
    # What would be shown as 1000 of a unit is 1 of the next.
    scale, unit = next((pair for pair in units if abs(value) >= pair[0] * 0.9995), units[-1])
    return f"{value / scale:.{digits}g} {unit}"
