"""The whole chain on the smallest model: run microbenchmarks, predict, measure, and find out what moved."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from perfsuite.llama.cost_model import predict
from perfsuite.llama.diagnosis.measuring import run_microbenchmarks
from perfsuite.llama.diagnosis.microbenchmarks import Findings
from perfsuite.llama.diagnosis.report import judgement
from perfsuite.llama.diagnosis.sections import prediction_row, stage_section
from perfsuite.llama.results import PHASES
from perfsuite.llama.rows import Forward
from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint, ModelConfig
from tests.runtime.models import random_ids, write_model

pytestmark = pytest.mark.slow

TOKENS = 128
THREADS = 1
ROWS = (1, 16, 64, 256, 1024)
OTHER = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint("tiny")


@pytest.fixture(scope="module")
def findings(tiny: Checkpoint) -> Findings:
    """Constants of this machine, found without any model and without any forward pass."""

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("a microbenchmark must not run a model")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SplitLlama, "launch", forbidden)
        patch.setattr(SplitLlama, "forward", forbidden)
        return run_microbenchmarks(
            tiny.config, list(STAGES.values()), TOKENS, threads=THREADS, rounds=2, rows=ROWS
        )


def forwards(
    checkpoint: Checkpoint, stage: str, tokens: int, slowdown: dict[str, float] | None = None
) -> list[Forward]:
    prompt = random_ids(checkpoint.config, 1, tokens)
    with SplitLlama.launch(checkpoint, stage, threads=THREADS, slowdown=slowdown) as llama:
        for _ in range(2):
            llama.forward(prompt)
        found = []
        for _ in range(5):
            llama.forward(prompt)
            found.append(Forward(llama.last_trace.total_s, trace=llama.last_trace))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_and_a_length_that_were_never_measured_are_predicted(
    findings: Findings, tmp_path: Path, stage: str
) -> None:
    other = write_model(tmp_path / "other", ModelConfig.from_hf(OTHER))
    predicted = predict(other.config, STAGES[stage], 2 * TOKENS, findings.constants).total_s
    measured = median(each.seconds for each in forwards(other, stage, 2 * TOKENS))
    assert 1 / 3 < predicted / measured < 3


@pytest.mark.parametrize("phase", PHASES)
def test_a_slower_phase_names_its_constant(
    findings: Findings, tiny: Checkpoint, phase: str
) -> None:
    stage = STAGES["shared-memory"]
    section = stage_section(stage, forwards(tiny, stage.name, TOKENS, {phase: 30.0}))
    row = prediction_row(section, predict(tiny.config, stage, TOKENS, findings.constants))
    assert row.moved is not None
    assert row.moved["phase"] == phase
    assert f"what moved is {phase}: " in judgement(row).text
    assert row.error < -0.3


def test_a_constant_is_positive_and_a_larger_message_takes_longer(findings: Findings) -> None:
    constants = findings.constants
    assert constants.bandwidth > 1e8
    assert all(rate.per_second > 0 for rates in constants.rates.values() for rate in rates)
    for route in ("zmq-tcp", "zmq-ipc"):
        transport = constants.routes[route].sent["transport"]
        assert transport.at(1 << 20) > transport.at(1024) > 0
    assert findings.first_touch_s > 0


def test_phases_explain_all_of_a_forward_pass(tiny: Checkpoint) -> None:
    section = stage_section(STAGES["fused"], forwards(tiny, "fused", TOKENS))
    assert abs(section.unexplained_share) < 0.03
    assert [row.of for row in section.operations] == ["embedding", "fused_layer", "lm_head"]
    assert [row.of for row in section.layers] == [None, *range(tiny.config.num_layers)]
    assert sum(row.calls for row in section.layers) == section.rpc_count
