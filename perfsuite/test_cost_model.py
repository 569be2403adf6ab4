"""The cost model against a measured ladder: it must not rot as the runtime changes.

The smallest model has the largest errors, because its operations are short and its machine is noisy: what
is asserted is what the model is used for, and within a wide margin. ``docs/diagnosis.md`` has its errors.
"""

from __future__ import annotations

import os
from statistics import median

import pytest
import torch

from perfsuite.llama.cost_model import predict
from perfsuite.llama.diagnosis.measuring import measure
from perfsuite.llama.diagnosis.sections import stage_section
from perfsuite.llama.prompts import SHIPPED
from perfsuite.llama.results import PHASES
from runtime import STAGES, load_checkpoint

TOKENS = 256
ROUNDS = 2
MARGIN = 3.0
"""A total may be wrong by this factor either way."""


@pytest.mark.timeout(300)
def test_the_model_still_explains_the_ladder() -> None:
    checkpoint = load_checkpoint("tiny")
    ids = torch.tensor([SHIPPED.tokenized(checkpoint.tokenizer(), TOKENS).ids])
    stages = list(STAGES.values())
    threads = len(os.sched_getaffinity(0))
    measured = measure(checkpoint, ids, stages, threads=threads, rounds=ROUNDS)
    errors = {}
    for stage in stages:
        section = stage_section(stage, measured.forwards[stage.name])
        prediction = predict(checkpoint.config, stage, TOKENS, measured.findings.constants)
        errors[stage.name] = prediction.total_s / section["measured_s"]
        assert list(prediction.phases) == list(PHASES)
        assert prediction.rpc_count == section["rpc_count"]
        assert abs(section["unexplained_share"]) < 0.03
    assert all(1 / MARGIN < error < MARGIN for error in errors.values()), errors
    assert 1 / MARGIN < median(errors.values()) < MARGIN
