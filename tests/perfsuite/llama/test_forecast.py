"""The analysis' own figures, of its own model: as they were claimed, and with the slip that is known of."""

from __future__ import annotations

import pytest

from perfsuite.llama.forecast import CLAIMED_SHARES, FORECAST
from perfsuite.llama.results import PHASES
from runtime.checkpoints import PRESETS
from runtime.stages import STAGES
from runtime.traffic import forward_traffic


def test_the_table_is_that_of_the_analysis() -> None:
    assert [(one.latency_s, one.speedup, one.rpc_count) for one in FORECAST.values()] == [
        (0.332, 1.0, 98),
        (0.206, 1.6, 98),
        (0.050, 6.6, 18),
        (0.010, 33.0, 18),
    ]
    with pytest.raises(TypeError):
        FORECAST["extra"] = FORECAST["bf16"]  # type: ignore[index]


def test_its_speed_ups_are_those_of_its_latencies() -> None:
    base = FORECAST["baseline"].latency_s
    for one in FORECAST.values():
        assert one.speedup == pytest.approx(base / one.latency_s, abs=0.3)


def test_its_calls_are_those_of_its_model() -> None:
    config = PRESETS["llama-1b"].config
    assert config is not None
    for name, one in FORECAST.items():
        assert forward_traffic(config, STAGES[name], 1024).rpc_count == one.rpc_count


def test_the_shares_are_of_phases_and_of_a_whole() -> None:
    assert set(CLAIMED_SHARES) < set(PHASES)
    assert sum(CLAIMED_SHARES.values()) == pytest.approx(1.0)
