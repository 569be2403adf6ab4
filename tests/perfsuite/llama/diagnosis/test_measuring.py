"""The whole chain on the smallest model: run microbenchmarks, predict, measure, and find out what moved."""

from __future__ import annotations

import pytest

from perfsuite.llama.cost_model import predict
from perfsuite.llama.diagnosis.measuring import run_microbenchmarks
from perfsuite.llama.diagnosis.microbenchmarks import Findings
from perfsuite.llama.diagnosis.sections import prediction_row, stage_section
from perfsuite.llama.results import PHASES
from perfsuite.llama.rows import Forward
from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint, ModelConfig
from tests.runtime.models import random_ids

pytestmark = pytest.mark.slow

TOKENS = 64
THREADS = 1
ROWS = (1, 64, 1024)
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
            tiny.config, list(STAGES.values()), TOKENS, threads=THREADS, rounds=1, rows=ROWS
        )


def forwards(
    checkpoint: Checkpoint,
    stage: str,
    tokens: int,
    slowdown: dict[str, float] | None = None,
    times: int = 3,
) -> list[Forward]:
    prompt = random_ids(checkpoint.config, 1, tokens)
    with SplitLlama.launch(checkpoint, stage, threads=THREADS, slowdown=slowdown) as llama:
        found = []
        for _ in range(times):
            llama.forward(prompt)
            found.append(Forward(llama.last_trace.total_s, trace=llama.last_trace))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_and_a_length_that_were_never_measured_are_predicted(
    findings: Findings, stage: str
) -> None:
    """How near it comes takes a quiet machine to say: ``perfsuite/test_cost_model.py``."""
    other = ModelConfig.from_hf(OTHER)
    predicted = predict(other, STAGES[stage], 2 * TOKENS, findings.constants)
    assert set(predicted.phases) == set(PHASES)
    assert all(seconds >= 0 for seconds in predicted.phases.values())
    assert 0 < predicted.total_s < float("inf")


def test_constants_are_positive(findings: Findings) -> None:
    constants = findings.constants
    assert constants.bandwidth > 0
    assert all(rate.per_second > 0 for rates in constants.rates.values() for rate in rates)
    for route in ("zmq-tcp", "zmq-ipc"):
        transport = constants.routes[route].sent["transport"]
        assert min(transport.at(1024), transport.at(1 << 20)) > 0
    assert findings.first_touch_s > 0


def test_a_real_run_is_broken_down_and_held_against_its_prediction(
    findings: Findings, tiny: Checkpoint
) -> None:
    """Which phase is named is a matter of samples: ``test_residuals.py`` and ``test_sections.py``."""
    stage = STAGES["fused"]
    section = stage_section(stage, forwards(tiny, stage.name, TOKENS))
    assert [row.of for row in section.operations] == ["embedding", "fused_layer", "lm_head"]
    assert [row.of for row in section.layers] == [None, *range(tiny.config.num_layers)]
    assert sum(row.calls for row in section.layers) == section.rpc_count
    told = sum(section.phases_s.values()) + section.unexplained_s
    assert told == pytest.approx(section.measured_s)
    row = prediction_row(section, predict(tiny.config, stage, TOKENS, findings.constants))
    assert row.error == pytest.approx(row.predicted_s / section.measured_s - 1)


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_that_was_slowed_is_longer(tiny: Checkpoint, phase: str) -> None:
    """By so much that it is nearly all there is, whatever else the machine does."""
    section = stage_section(
        STAGES["shared-memory"], forwards(tiny, "shared-memory", 16, {phase: 300.0}, times=1)
    )
    assert section.phases_s[phase] > 0.5 * section.measured_s
