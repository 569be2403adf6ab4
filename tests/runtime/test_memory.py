"""What may still be taken is the least of what the machine has and each control group leaves."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from runtime import memory
from runtime.errors import ArenaError
from runtime.memory import available_bytes
from runtime.transports.arena import Arena

GROUPS: dict[str, tuple[str, dict[str, tuple[str, str, str]]]] = {
    "version 2": ("0::/a/b", {"a/b": ("memory.max", "memory.current", "300")}),
    "version 2, above": (
        "0::/a/b",
        {
            "a/b": ("memory.max", "memory.current", "max"),
            "a": ("memory.max", "memory.current", "300"),
        },
    ),
    "version 2, in a container": ("0::/elsewhere", {"": ("memory.max", "memory.current", "300")}),
    "version 1": (
        "4:cpu:/x\n5:memory:/a",
        {"memory/a": ("memory.limit_in_bytes", "memory.usage_in_bytes", "300")},
    ),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_a_limit_of_a_group_counts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, folders = GROUPS[kind]
    (tmp_path / "cgroup").write_text(f"{own}\n")
    for folder, (limit, usage, most) in folders.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / limit).write_text(f"{most}\n")
        (tmp_path / folder / usage).write_text("100\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CONTROLLERS", tmp_path)
    assert available_bytes() == 200
    with pytest.raises(ArenaError, match=r"4,096 bytes of shared memory wanted, 200 available"):
        Arena.create(4096)


@pytest.mark.parametrize("text", ["0::/nowhere", "3:cpu:/", ""])
def test_without_a_limit_it_is_what_the_machine_has(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup").write_text(text)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CONTROLLERS", tmp_path)
    assert 0.5 < available_bytes() / psutil.virtual_memory().available < 2
