"""Fails when packing or unpacking became slower than ``baselines.json`` says."""

import random
import zlib

from parcel import pack, unpack

from perfsuite.latency_gate import LatencyGate

_WORDS = random.Random(0).choices(
    ["gate", "latency", "merge", "parcel", "pytest", "round"], k=50_000
)
_TEXT = " ".join(_WORDS).encode()
_FILES = {"one.txt": _TEXT[:200_000], "two.txt": _TEXT[200_000:]}
_BLOCK = pack(_FILES)


def yardstick() -> None:
    """Work of the same kind that no change of ours touches."""
    zlib.compress(_TEXT, level=6)


def test_pack(latency_gate: LatencyGate) -> None:
    latency_gate(lambda: pack(_FILES), yardstick, name="pack")


def test_unpack(latency_gate: LatencyGate) -> None:
    latency_gate(lambda: unpack(_BLOCK), yardstick, name="unpack")
