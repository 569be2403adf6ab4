"""Fails when labelling, arranging or packing became slower than ``baselines.json`` says."""

import random
import sys
import zlib
from pathlib import Path

from parcel import arrange, label, pack

from perfsuite.latency_gate import LatencyGate

_RANDOM = random.Random(0)
_WORDS = ["gate", "latency", "merge", "parcel", "pytest", "round"]
_TEXT = " ".join(_RANDOM.choices(_WORDS, k=50_000)).encode()
_FILES = {"one.txt": _TEXT[:200_000], "two.txt": _TEXT[200_000:]}
_LONG_TEXT = " ".join(_RANDOM.choices(_WORDS, k=350_000)).encode()
_PARCELS = [_RANDOM.randbytes(_RANDOM.randrange(40)) for _ in range(5_000)]


def test_label(latency_gate: LatencyGate) -> None:
    """A microsecond. Without a reference of its own it is held against a built-in one."""
    latency_gate(lambda: label(42, "One File.txt"), name="label")


def test_arrange(latency_gate: LatencyGate) -> None:
    """Consumes its input: each call gets a new list, which is made while no clock runs."""
    latency_gate(arrange, setup=lambda: list(_PARCELS), name="arrange")


def test_pack(latency_gate: LatencyGate) -> None:
    """Milliseconds, over a reference: work of the same kind that no change of ours touches."""
    latency_gate(lambda: pack(_FILES), reference=lambda: zlib.compress(_TEXT, level=6), name="pack")


def test_command(latency_gate: LatencyGate, tmp_path: Path) -> None:
    """A second: the program as users run it, interpreter and imports included."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "long.txt").write_bytes(_LONG_TEXT)
    program = [sys.executable, "-m", "parcel", folder, tmp_path / "block"]
    latency_gate(latency_gate.command(program), name="command")
