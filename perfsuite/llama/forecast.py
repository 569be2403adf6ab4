"""What the analysis that started the project forecast for its own model: claims, not measurements.

Its model has 16 layers of hidden size 2048 and 1,024 tokens. The 332 ms of its baseline are a unit
error: they were measured per call, not per forward pass. A figure of this table is shown only
beside the measured one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Forecast:
    """One row of the analysis' table."""

    latency_s: float
    speedup: float
    rpc_count: int


FORECAST: Mapping[str, Forecast] = MappingProxyType(
    {
        "baseline": Forecast(latency_s=0.332, speedup=1.0, rpc_count=98),
        "shared-memory": Forecast(latency_s=0.206, speedup=1.6, rpc_count=98),
        "fused": Forecast(latency_s=0.050, speedup=6.6, rpc_count=18),
        "bf16": Forecast(latency_s=0.010, speedup=33.0, rpc_count=18),
    }
)

CLAIMED_SHARES: Mapping[str, float] = MappingProxyType(
    {"serialize": 0.41, "device": 0.30, "transport": 0.15, "trusted": 0.14}
)
"""Where the analysis says that a forward pass spends its time; "serialize" holds both directions."""
