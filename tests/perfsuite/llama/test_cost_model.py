from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from perfsuite.llama.bursts import patterns
from perfsuite.llama.cost_model import BOUNDS, Accelerator, Assumptions, predict
from perfsuite.llama.diagnosis.routes import ROUTES
from perfsuite.llama.machine_constants import (
    Curve,
    MachineConstants,
    Rate,
    RateKey,
    Route,
    rate_key,
)
from perfsuite.llama.recording import operations
from perfsuite.llama.results import PHASES
from runtime import STAGES
from runtime.checkpoints import PRESETS, ModelConfig
from runtime.traffic import forward_traffic

TOKENS = 64
RATE = 1e9
CALL_S = 1e-3
BYTE_S = 1e-9
CALL_PHASES = ("serialize", "transport", "deserialize", "trusted")


@pytest.fixture
def config() -> ModelConfig:
    config = PRESETS["tiny"].config
    assert config is not None
    return config


@pytest.fixture
def constants(config: ModelConfig) -> MachineConstants:
    """A machine on which each call costs 1 ms a phase, each byte 1 ns, and all work has one rate."""
    curve = Curve((0, 10**9), (CALL_S, CALL_S + 10**9 * BYTE_S))
    route = Route(
        sent=dict.fromkeys(CALL_PHASES, curve),
        received=dict.fromkeys(CALL_PHASES, curve),
        per_tensor_s=dict.fromkeys(CALL_PHASES, 0.0),
    )
    rates: dict[RateKey, list[Rate]] = {}
    for pattern in patterns(config, STAGES.values(), TOKENS):
        for row in (row for burst in pattern for row in burst.operations):
            rates.setdefault(rate_key(row), []).append(Rate(row.shape, RATE))
    return MachineConstants(dict.fromkeys(ROUTES, route), rates, 4 * RATE)


@pytest.mark.parametrize("stage", STAGES)
def test_a_prediction_is_the_sum_of_calls_and_operations(
    config: ModelConfig, constants: MachineConstants, stage: str
) -> None:
    row = STAGES[stage]
    prediction = predict(config, row, TOKENS, constants)
    traffic = forward_traffic(config, row, TOKENS)
    call_phase = traffic.rpc_count * CALL_S + traffic.total_bytes * BYTE_S
    work = {
        side: sum(
            each.work * each.times for each in operations(config, row, TOKENS) if each.side == side
        )
        for side in ("device", "trusted")
    }
    assert prediction.phases == pytest.approx(
        {
            "serialize": call_phase,
            "transport": call_phase,
            "device": work["device"] / RATE,
            "deserialize": call_phase,
            "trusted": call_phase + work["trusted"] / RATE,
        }
    )
    assert list(prediction.phases) == list(PHASES)
    assert prediction.total_s == pytest.approx(sum(prediction.bounds.values()))
    assert sum(prediction.device_by_call.values()) == pytest.approx(prediction.phases["device"])
    assert prediction.rpc_count == traffic.rpc_count


def test_every_stage_of_every_preset_has_its_operations_in_order_of_calls() -> None:
    for preset in PRESETS.values():
        if preset.config is not None:
            for stage in STAGES.values():
                rows = operations(preset.config, stage, TOKENS)
                assert rows[0].call == "embedding"
                assert rows[-1].call == "lm_head"


@pytest.mark.parametrize(
    ("cheap", "bound"),
    [
        ({}, "compute"),
        ({"call_s": 10.0}, "per-call"),
        ({"byte_s": 1e-3}, "transport"),
    ],
)
def test_the_bound_is_what_costs_most(
    config: ModelConfig, constants: MachineConstants, cheap: Mapping[str, float], bound: str
) -> None:
    call_s, byte_s = cheap.get("call_s", 1e-9), cheap.get("byte_s", 1e-15)
    curve = Curve((0, 10**9), (call_s, call_s + 10**9 * byte_s))
    route = replace(
        constants.routes["shared-memory"],
        sent=dict.fromkeys(CALL_PHASES, curve),
        received=dict.fromkeys(CALL_PHASES, curve),
    )
    known = replace(constants, routes={"shared-memory": route}, bandwidth=1e15)
    prediction = predict(config, STAGES["fused"], TOKENS, known)
    assert prediction.bound == bound
    assert set(prediction.bounds) == set(BOUNDS)


def test_fewer_calls_save_what_calls_cost_and_no_bytes(
    config: ModelConfig, constants: MachineConstants
) -> None:
    stage = STAGES["shared-memory"]
    now = predict(config, stage, TOKENS, constants)
    fewer = predict(config, stage, TOKENS, constants, Assumptions(rpc_count=now.rpc_count - 6))
    assert now.total_s - fewer.total_s == pytest.approx(6 * CALL_S * len(CALL_PHASES))
    assert fewer.rpc_count == now.rpc_count - 6


def test_another_route_takes_the_memory_of_its_own(
    config: ModelConfig, constants: MachineConstants
) -> None:
    slow = {key: [Rate(rate.shape, RATE / 2) for rate in rates] if key[3] == "arena" else rates
            for key, rates in constants.rates.items()}  # fmt: skip
    known = replace(constants, rates=slow)
    now = predict(config, STAGES["baseline"], TOKENS, known)
    moved = predict(config, STAGES["baseline"], TOKENS, known, Assumptions(route="shared-memory"))
    assert moved.phases["device"] == pytest.approx(2 * now.phases["device"])


def test_an_accelerator_is_bound_by_its_roof_and_its_link(
    config: ModelConfig, constants: MachineConstants
) -> None:
    device = Accelerator("x", "X", {"float32": 1e30}, 1e30, 1e6, 1e30, "nobody")
    stage = STAGES["fused"]
    crossed = forward_traffic(config, stage, TOKENS).total_bytes
    prediction = predict(config, stage, TOKENS, constants, Assumptions(accelerator=device))
    assert prediction.phases["device"] == pytest.approx(crossed / 1e6)
    roof = replace(device, flops={"float32": 1e9}, host_bandwidth=1e30)
    prediction = predict(config, stage, TOKENS, constants, Assumptions(accelerator=roof))
    flops = sum(row.flops * row.times for row in operations(config, stage, TOKENS))
    assert prediction.phases["device"] == pytest.approx(flops / 1e9)
    assert prediction.bounds["compute"] == pytest.approx(flops / 1e9)
