"""What needs no clock: calls, bytes and copies of each stage, to the unit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.checkpoints.presets import PRESETS
from runtime.traffic import Traffic, forward_traffic

# At 1,024 tokens, but for the copies, which do not depend on the length: of `tiny`.
_RECORDED = json.loads(Path(__file__).with_name("budgets.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=STAGES)
def llama(request: pytest.FixtureRequest) -> Iterator[SplitLlama]:
    with SplitLlama.launch(load_checkpoint("tiny"), stage=request.param, threads=1) as launched:
        yield launched


def _budget(traffic: Traffic) -> Mapping[str, int]:
    return {
        "rpc_count": traffic.rpc_count,
        "bytes_sent": traffic.bytes_sent,
        "bytes_received": traffic.bytes_received,
    }


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_calls_and_bytes_are_those_of_the_closed_formula(llama: SplitLlama, tokens: int) -> None:
    llama.forward(torch.arange(tokens))
    totals = llama.last_trace.totals()
    measured = Traffic(totals["rpc_count"], totals["bytes_sent"], totals["bytes_received"])
    assert _budget(measured) == _budget(forward_traffic(llama.config, llama.stage, tokens))


def test_payload_is_copied_as_often_as_recorded(llama: SplitLlama) -> None:
    llama.forward(torch.arange(64))
    copies = llama.last_trace.totals()["payload_copies"]
    assert copies == _RECORDED["payload_copies"][llama.stage.name]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_formula_gives_every_preset_its_recorded_budget(preset: str, stage: str) -> None:
    # What the formula demands is recorded too, so that a review sees it change.
    config = PRESETS[preset].config or load_checkpoint(preset).config
    assert _RECORDED[preset][stage] == _budget(forward_traffic(config, STAGES[stage], 1024))


def test_every_recorded_budget_has_its_stage_and_preset() -> None:
    assert set(_RECORDED) == {*PRESETS, "payload_copies"}
    assert all(set(stages) == set(STAGES) for stages in _RECORDED.values())
