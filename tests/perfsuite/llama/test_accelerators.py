"""Published peaks of devices, as the cost model takes them."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources

from perfsuite.llama.accelerators import load_accelerators


def test_figures_are_in_units_without_prefixes() -> None:
    text = (resources.files("perfsuite.llama") / "data" / "accelerators.json").read_text()
    entries = json.loads(text)
    found = load_accelerators()
    assert list(found) == list(entries)
    h100 = found["h100"]
    assert h100.flops["bfloat16"] == entries["h100"]["tflops"]["bfloat16"] * 1e12
    assert h100.memory_bandwidth == entries["h100"]["memory_gb_per_s"] * 1e9
    assert h100.host_bandwidth == entries["h100"]["host_gb_per_s"] * 1e9
    assert h100.memory_bytes == entries["h100"]["memory_gb"] * 1e9


def test_every_entry_is_whole_and_of_a_believable_size() -> None:
    """A slip of a thousand would pass for a result."""
    for name, one in load_accelerators().items():
        assert one.name == name
        assert one.title
        assert one.source.startswith(("http", one.source[:1].upper())), name
        assert set(one.flops) == {"float32", "bfloat16"}
        assert 1e12 < one.flops["float32"] <= one.flops["bfloat16"] < 1e16
        assert 1e11 < one.memory_bandwidth < 1e14
        assert 1e9 < one.host_bandwidth < one.memory_bandwidth
        assert 1e9 < one.memory_bytes < 1e12
        assert dataclasses.is_dataclass(one)
