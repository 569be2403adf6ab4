"""What needs no clock: calls, bytes and copies of each stage, to the unit.

``--update-budgets`` records what they are now, for review; the closed formula is held to in any case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import runtime
from perfsuite.files import write_json
from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.checkpoints import ModelConfig
from runtime.checkpoints.presets import PRESETS
from runtime.rpc import RpcClient
from runtime.stages import Stage
from runtime.traffic import Traffic, append_traffic, forward_traffic

_FILE = Path(__file__).with_name("budgets.json")
_COPIES = "payload_copies"
_MOST_MOVES = 12
_TOKENS = 1024
_RUNTIME = Path(runtime.__file__).parent

Budgets = dict[str, dict[str, Any]]
"""By preset and stage, at ``_TOKENS`` tokens; the copies, which do not depend on the length, by stage, of ``tiny``."""


@pytest.fixture(scope="session")
def recorded(pytestconfig: pytest.Config) -> Iterator[Budgets]:
    if not pytestconfig.getoption("update_budgets"):
        yield json.loads(_FILE.read_text(encoding="utf-8"))
        return
    budgets: Budgets = {_COPIES: {}}
    for preset in PRESETS:
        config = _config(preset)
        budgets[preset] = {name: _budgets(config, stage) for name, stage in STAGES.items()}
    yield budgets
    if set(budgets[_COPIES]) == set(STAGES):  # all were run
        write_json(_FILE, budgets, "--update-budgets")


@pytest.fixture(scope="module", params=STAGES)
def llama(request: pytest.FixtureRequest) -> Iterator[SplitLlama]:
    with SplitLlama.launch(load_checkpoint("tiny"), stage=request.param, threads=1) as launched:
        yield launched


def _config(preset: str) -> ModelConfig:
    return PRESETS[preset].config or load_checkpoint(preset).config


def _budget(traffic: Traffic) -> Mapping[str, int]:
    return {
        "rpc_count": traffic.rpc_count,
        "bytes_sent": traffic.bytes_sent,
        "bytes_received": traffic.bytes_received,
    }


def _budgets(config: ModelConfig, stage: Stage) -> Mapping[str, Any]:
    """Of a prompt of ``_TOKENS``, and of one more token."""
    return {
        **_budget(forward_traffic(config, stage, _TOKENS)),
        "decode": _budget(append_traffic(config, stage, 1, start=_TOKENS)),
    }


def _measured(llama: SplitLlama) -> Mapping[str, int]:
    totals = llama.last_trace.totals()
    return _budget(Traffic(totals["rpc_count"], totals["bytes_sent"], totals["bytes_received"]))


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_calls_and_bytes_are_those_of_the_closed_formula(llama: SplitLlama, tokens: int) -> None:
    llama.forward(torch.arange(tokens))
    assert _measured(llama) == _budget(forward_traffic(llama.config, llama.stage, tokens))


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_a_token_moves_what_the_closed_formula_says(llama: SplitLlama, tokens: int) -> None:
    """Keys and values that the worker has do not cross again."""
    with llama.open_context(1, tokens + 2) as context:
        context.append(torch.arange(tokens))
        for start in (tokens, tokens + 1):
            context.append([1])
            assert _measured(llama) == _budget(
                append_traffic(llama.config, llama.stage, 1, start=start)
            )


def test_one_call_is_read_in_few_files() -> None:
    """How often the trusted side's code moves from one file to another in a call of a whole layer."""
    moves: list[int] = []

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or frame.f_back is None:
            return
        if frame.f_code is RpcClient.call.__code__:
            moves.append(0)
        files = {Path(each.f_code.co_filename) for each in (frame, frame.f_back)}
        if moves and len(files) == 2 and all(_RUNTIME in file.parents for file in files):
            moves[-1] += 1

    with SplitLlama.launch(load_checkpoint("tiny"), stage="fused", threads=1) as llama:
        llama.forward([1, 2, 3])  # what later calls remember
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            llama.forward([1, 2, 3])
        finally:
            sys.setprofile(before)
    assert len(moves) == 2 + llama.config.num_layers
    assert 0 < moves[1] <= _MOST_MOVES


def test_payload_is_copied_as_often_as_recorded(
    llama: SplitLlama, recorded: Budgets, pytestconfig: pytest.Config
) -> None:
    llama.forward(torch.arange(64))
    copies = llama.last_trace.totals()["payload_copies"]
    if pytestconfig.getoption("update_budgets"):
        recorded[_COPIES][llama.stage.name] = copies
    assert copies == recorded[_COPIES][llama.stage.name]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_formula_gives_every_preset_its_recorded_budget(
    preset: str, stage: str, recorded: Budgets
) -> None:
    # What the formula demands is recorded too, so that a review sees it change.
    assert recorded[preset][stage] == _budgets(_config(preset), STAGES[stage])


def test_every_recorded_budget_has_its_stage_and_preset(recorded: Budgets) -> None:
    assert set(recorded) == {*PRESETS, _COPIES}
    assert all(set(stages) == set(STAGES) for stages in recorded.values())
