"""How much memory this process may still take: what the machine has, and what its control groups allow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_CONTROLLERS = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")
_FILES = (
    ("memory.max", "memory.current"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
)


def available_bytes() -> int:
    """Return what can be taken before somebody is ended for it."""
    machine: int = psutil.virtual_memory().available
    return max(0, min([machine, *_allowed()]))


def _allowed() -> Iterator[int]:
    """Yield what each control group that this process is in leaves of its limit; those without one are none."""
    for folder in _folders():
        for limit, usage in _FILES:
            try:
                allowed = int((folder / limit).read_text())
                yield allowed - int((folder / usage).read_text())
            except (OSError, ValueError):  # there is none, or it is "max"
                continue


def _folders() -> Iterator[Path]:
    """Yield the folders of the groups, and of those above them."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CONTROLLERS / "memory" if controllers else _CONTROLLERS
        group = root / path.lstrip("/")
        yield root  # in a container the group's own folder may be mounted there
        while group != root:
            yield group
            group = group.parent
