"""Devices that the machine at hand has not, by their published peaks: ``data/accelerators.json``.

Peaks are dense; float32 is the processor's own, without matrix units, as torch multiplies by default. A figure
that a vendor publishes only with sparsity is halved, and its entry says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from perfsuite.llama.cost_model import Accelerator

_FILE = "accelerators.json"


def load_accelerators() -> Mapping[str, Accelerator]:
    """Return the accelerators that are known, by name."""
    text = (resources.files("perfsuite.llama") / "data" / _FILE).read_text(encoding="utf-8")
    entries: Mapping[str, Mapping[str, Any]] = json.loads(text)
    return {
        name: Accelerator(
            name=name,
            title=entry["title"],
            flops={dtype: tera * 1e12 for dtype, tera in entry["tflops"].items()},
            memory_bandwidth=entry["memory_gb_per_s"] * 1e9,
            host_bandwidth=entry["host_gb_per_s"] * 1e9,
            memory_bytes=entry["memory_gb"] * 1e9,
            source=entry["source"],
        )
        for name, entry in entries.items()
    }
