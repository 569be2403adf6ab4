"""Built-in references: fixed work that shows how fast the machine is, for tests that name none of their own.

Each leans on another part of the machine, because no single one tracks all benchmarks: which one does
is found when a baseline is recorded. They must never change, or stored ratios lose their meaning: a new one
gets a new name.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
from collections.abc import Callable, Mapping

from perfsuite.processes.benchmark import Command


def interpreter() -> int:
    """Bound by the interpreter: calls, attribute and dictionary accesses, small objects. About 0.3 ms."""
    found: dict[str, int] = {}
    for number in range(1500):
        key = _KEYS[number % 97]
        found[key] = found.get(key, 0) + len(key) + _step(number)
    return sum(found.values())


def memory() -> int:
    """Bound by memory: copies 4 MB, more than a core's own caches hold, and scans it. About 0.5 ms."""
    return bytes(_BLOCK).count(b"\x01")


def arithmetic() -> float:
    """Bound by a core's arithmetic, in C: a hash of 64 KB, and sums of floating-point numbers. About 0.2 ms."""
    return hashlib.sha256(_TEXT).digest()[0] + math.fsum(_NUMBERS) + math.dist(_NUMBERS, _OTHERS)


def program() -> None:
    """Bound by the kernel: starts a program that does nothing, and waits for it. About 0.7 ms."""
    subprocess.run(_NOTHING, check=True)


def _step(number: int) -> int:
    return (number * 7 + 3) % 11


_KEYS = [f"key {number}" for number in range(97)]
_BLOCK = bytearray(4 << 20)
_TEXT = bytes(range(256)) * 256
_NUMBERS = [math.sin(number) for number in range(4096)]
_OTHERS = [math.cos(number) for number in range(4096)]

_NOTHING = ["true"]  # POSIX

REFERENCES: Mapping[str, Callable[[], object]] = {
    "interpreter": interpreter,
    "memory": memory,
    "arithmetic": arithmetic,
    "program": program,
}
OWN = "own"
"""How a test's own reference is called where the built-in ones are named."""

_FOR_CALLABLES = ("interpreter", "memory", "arithmetic")


def offered(subject: object) -> list[str]:
    """Return the names of the references of which one may track ``subject``.

    Nothing but starting programs tracks what starts a program.
    """
    return list(REFERENCES if isinstance(subject, Command) else _FOR_CALLABLES)
