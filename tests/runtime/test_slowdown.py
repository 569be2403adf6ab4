from __future__ import annotations

import math
import time
from statistics import median
from typing import cast

import pytest
import torch

from runtime import SplitLlama, load_checkpoint
from runtime.errors import InputError
from runtime.slowdown import PHASES, Slowdown, parse_factor


@pytest.mark.parametrize("seconds", [1e-4, 5e-3])
def test_a_phase_takes_its_factor(seconds: float) -> None:
    slowdown = Slowdown({"device": 3.0})
    began = time.perf_counter()
    waited = slowdown.stretch("device", seconds)
    assert 2 * seconds <= waited <= time.perf_counter() - began


def test_other_phases_are_left_alone() -> None:
    assert Slowdown({"device": 3.0}).stretch("transport", 10.0) == 0.0


@pytest.mark.parametrize(
    "factors", [{"lunch": 2.0}, {"device": 0.5}, {"device": math.nan}, {"device": math.inf}]
)
def test_nonsense_is_refused(factors: dict[str, float]) -> None:
    with pytest.raises(InputError, match="slowdown"):
        Slowdown(factors)


@pytest.mark.parametrize("text", ["device", "device=", "device=fast"])
def test_a_worker_refuses_a_malformed_option(text: str) -> None:
    with pytest.raises(InputError, match="slowdown"):
        Slowdown(dict([parse_factor(text)]))


@pytest.mark.parametrize("stage", ["baseline", "fused"])
@pytest.mark.parametrize("phase", [*PHASES, "total"])
def test_the_phase_grows_and_the_phases_still_sum_to_the_total(phase: str, stage: str) -> None:
    """By so much that no noise of the machine hides it: forty times."""
    checkpoint = load_checkpoint("tiny")
    seconds: dict[str, float] = {}
    with (
        SplitLlama.launch(checkpoint, stage=stage, threads=1) as plain,
        SplitLlama.launch(checkpoint, stage=stage, threads=1, slowdown={phase: 40.0}) as slowed,
    ):
        for name, llama in (("plain", plain), ("slowed", slowed)):
            totals = []
            for _ in range(5):
                llama.forward(torch.arange(8))
                totals.append(cast(dict[str, float], llama.last_trace.totals()))
                parts = sum(totals[-1][f"{part}_s"] for part in PHASES)
                assert parts == pytest.approx(totals[-1]["total_s"], rel=0.02)
            key = "total_s" if phase == "total" else f"{phase}_s"
            seconds[name] = median(total[key] for total in totals)
    assert seconds["slowed"] > 5 * seconds["plain"]
