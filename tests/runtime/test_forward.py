"""Logits: every stage against ``transformers``, and what ``forward`` takes and returns."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.devices.cpu import CpuDevice
from runtime.errors import InputError
from runtime.rope import max_length
from runtime.trace import Totals
from runtime.traffic import forward_traffic
from tests.runtime.models import (
    BFLOAT16_BOUND,
    DEVICES,
    FLOAT32_BOUND,
    difference,
    model_configs,
    positions_for,
    random_ids,
    reference_logits,
    reference_model,
    rope_kinds,
    serve_in_thread,
    small_config,
    temporary_model,
    text_ids,
    write_model,
)

REAL_LENGTHS = (1, 7, 401, 1024)
FLOAT32_STAGES = tuple(name for name, stage in STAGES.items() if stage.dtype == "float32")
BFLOAT16_STAGES = tuple(name for name in STAGES if name not in FLOAT32_STAGES)
RANDOM = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# bfloat16 errors scatter from prompt to prompt: so many say how large they are.
BFLOAT16_PROMPTS = 16


def assert_float32(logits: torch.Tensor, expected: torch.Tensor) -> None:
    assert logits.dtype == torch.float32
    assert logits.shape == expected.shape
    assert difference(logits, expected) <= FLOAT32_BOUND
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


# Real weights


@dataclass(frozen=True)
class Answer:
    logits: torch.Tensor
    totals: Totals


@dataclass
class RealModel:
    """SmolLM2 on the beginning of a novel: each answer is computed once, when first asked for."""

    checkpoint: Checkpoint
    _answers: dict[tuple[str, str], dict[int, Answer]] = field(default_factory=dict)

    @cached_property
    def prompts(self) -> Mapping[int, list[int]]:
        return {tokens: text_ids(self.checkpoint, tokens) for tokens in REAL_LENGTHS}

    @cached_property
    def expected(self) -> Mapping[int, torch.Tensor]:
        return self._reference(torch.float32)

    @cached_property
    def expected_bfloat16(self) -> Mapping[int, torch.Tensor]:
        return self._reference(torch.bfloat16)

    def _reference(self, dtype: torch.dtype) -> dict[int, torch.Tensor]:
        model = reference_model(self.checkpoint, dtype)
        return {tokens: reference_logits(model, [ids]) for tokens, ids in self.prompts.items()}

    def answers(self, stage: str, device: str) -> Mapping[int, Answer]:
        """All prompts through one worker process."""
        key = stage, device
        if key not in self._answers:
            with SplitLlama.launch(self.checkpoint, stage, device) as llama:
                self._answers[key] = {
                    tokens: Answer(llama.forward(ids), llama.last_trace.totals())
                    for tokens, ids in self.prompts.items()
                }
        return self._answers[key]


@pytest.fixture(scope="module")
def real() -> RealModel:
    return RealModel(load_checkpoint("smollm2-135m"))


@pytest.mark.parametrize("tokens", REAL_LENGTHS)
@pytest.mark.parametrize("stage", FLOAT32_STAGES)
@pytest.mark.parametrize("device", DEVICES)
def test_float32_stages_match_transformers_on_real_text(
    real: RealModel, device: str, stage: str, tokens: int
) -> None:
    assert_float32(real.answers(stage, device)[tokens].logits, real.expected[tokens])


@pytest.mark.parametrize("tokens", REAL_LENGTHS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", BFLOAT16_STAGES)
def test_bfloat16_stages_are_as_good_as_transformers_bfloat16_on_real_text(
    real: RealModel, stage: str, device: str, tokens: int
) -> None:
    error = difference(real.answers(stage, device)[tokens].logits, real.expected[tokens])
    error_of_theirs = difference(real.expected_bfloat16[tokens], real.expected[tokens])
    assert error <= 2 * error_of_theirs
    assert error <= BFLOAT16_BOUND


@pytest.mark.parametrize("tokens", REAL_LENGTHS)
@pytest.mark.parametrize("device", DEVICES)
def test_fused_equals_shared_memory_on_real_text(real: RealModel, device: str, tokens: int) -> None:
    fused, by_operation = (
        real.answers(stage, device)[tokens].logits for stage in ("fused", "shared-memory")
    )
    assert difference(fused, by_operation) <= FLOAT32_BOUND


@pytest.mark.parametrize(
    ("stage", "calls"),
    [("baseline", 182), ("shared-memory", 182), ("fused", 32), ("bf16", 32), ("resident", 3)],
)
@pytest.mark.parametrize("device", DEVICES)
def test_real_weights_take_the_calls_and_bytes_of_the_formula(
    real: RealModel, device: str, stage: str, calls: int
) -> None:
    for tokens, answer in real.answers(stage, device).items():
        formula = forward_traffic(real.checkpoint.config, STAGES[stage], tokens)
        assert answer.totals["rpc_count"] == formula.rpc_count == calls
        assert answer.totals["bytes_sent"] == formula.bytes_sent
        assert answer.totals["bytes_received"] == formula.bytes_received


# Random weights of any kind of LLaMA


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelConfig, int, int, int]:
    """A model, a batch, a number of tokens, and a seed."""
    config = draw(model_configs())
    tokens = draw(st.integers(1, max_length(config)))
    return config, draw(st.integers(1, 3)), tokens, draw(st.integers(0, 1000))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", FLOAT32_STAGES)
@given(case=cases())
@RANDOM
def test_float32_stages_match_transformers_on_any_llama(
    stage: str, device: str, case: tuple[ModelConfig, int, int, int]
) -> None:
    config, batch, tokens, seed = case
    input_ids = random_ids(config, batch, tokens, seed)
    with (
        temporary_model(config, seed) as checkpoint,
        serve_in_thread(checkpoint, stage, device) as llama,
    ):
        logits = llama.forward(input_ids)
        expected = reference_logits(reference_model(checkpoint), input_ids)
    assert_float32(logits, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", BFLOAT16_STAGES)
@given(case=cases())
@RANDOM
def test_bfloat16_stages_are_as_good_as_transformers_bfloat16_on_any_llama(
    stage: str, device: str, case: tuple[ModelConfig, int, int, int]
) -> None:
    config, batch, tokens, seed = case
    input_ids = random_ids(config, BFLOAT16_PROMPTS, tokens, seed)
    with (
        temporary_model(config, seed) as checkpoint,
        serve_in_thread(checkpoint, stage, device) as llama,
    ):
        logits = llama.forward(input_ids[:batch])
        expected = reference_logits(reference_model(checkpoint), input_ids)
        theirs = [
            reference_logits(reference_model(checkpoint, torch.bfloat16, attention), input_ids)
            for attention in ("sdpa", "eager")
        ]
    assert logits.dtype == torch.float32
    assert logits.shape == (batch, config.vocab_size)
    error_of_theirs = max(difference(answer, expected) for answer in theirs)
    assert difference(logits, expected[:batch]) <= 2 * error_of_theirs


@pytest.mark.parametrize("device", DEVICES)
@given(case=cases())
@RANDOM
def test_fused_equals_shared_memory_on_any_llama(
    device: str, case: tuple[ModelConfig, int, int, int]
) -> None:
    config, batch, tokens, seed = case
    input_ids = random_ids(config, batch, tokens, seed)
    answers = []
    with temporary_model(config, seed) as checkpoint:
        for stage in ("fused", "shared-memory"):
            with serve_in_thread(checkpoint, stage, device) as llama:
                answers.append(llama.forward(input_ids))
    assert difference(*answers) <= FLOAT32_BOUND


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", FLOAT32_STAGES)
@pytest.mark.parametrize("kind", rope_kinds(16))
def test_every_rope_scaling_at_lengths_in_any_order(kind: str, stage: str, device: str) -> None:
    config = small_config(
        rope_parameters=rope_kinds(16)[kind], max_position_embeddings=positions_for(kind)
    )
    with (
        temporary_model(config) as checkpoint,
        serve_in_thread(checkpoint, stage, device) as llama,
    ):
        for tokens in (17, 1, 72, 24, 16, 25, 71, 3):
            input_ids = random_ids(config, 1, tokens)
            # Made anew: dynamic frequencies of theirs keep something of a longer prompt before.
            assert_float32(
                llama.forward(input_ids), reference_logits(reference_model(checkpoint), input_ids)
            )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", FLOAT32_STAGES)
# Each pair of settings in all its combinations.
@pytest.mark.parametrize(
    ("attention_bias", "mlp_bias", "tied"),
    [(False, False, False), (False, True, True), (True, False, True), (True, True, False)],
)
def test_biases_and_tied_embeddings(
    stage: str, device: str, attention_bias: bool, mlp_bias: bool, tied: bool
) -> None:
    config = small_config(
        attention_bias=attention_bias, mlp_bias=mlp_bias, tie_word_embeddings=tied
    )
    input_ids = random_ids(config, 2, 40)
    with (
        temporary_model(config) as checkpoint,
        serve_in_thread(checkpoint, stage, device) as llama,
    ):
        assert_float32(
            llama.forward(input_ids), reference_logits(reference_model(checkpoint), input_ids)
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", STAGES)
def test_weights_stored_as_bfloat16(stage: str, device: str) -> None:
    # What most published checkpoints hold.
    config = small_config()
    input_ids = random_ids(config, 2, 40)
    with temporary_model(config) as checkpoint:
        stored = reference_model(checkpoint, torch.bfloat16)
        folder = checkpoint.directory.with_name("bfloat16")
        stored.save_pretrained(folder)
        halved = load_checkpoint(folder, cache_dir=checkpoint.directory)
        assert halved.tensor("model.norm.weight").dtype == torch.bfloat16
        expected = reference_logits(reference_model(halved), input_ids)
        with serve_in_thread(halved, stage, device) as llama:
            logits = llama.forward(input_ids)
    if STAGES[stage].dtype == "float32":
        assert_float32(logits, expected)
    else:
        theirs = difference(reference_logits(stored, input_ids), expected)
        assert difference(logits, expected) <= 2 * theirs


# What goes in and what comes out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_model(tmp_path_factory.mktemp("models") / "small", small_config())


@pytest.fixture(scope="module", params=STAGES)
def llama(checkpoint: Checkpoint, request: pytest.FixtureRequest) -> Iterator[SplitLlama]:
    with serve_in_thread(checkpoint, request.param) as served:
        yield served


MAX_POSITIONS = 64  # of the small model, as its 96 token ids


def test_bad_input_harms_nothing(llama: SplitLlama) -> None:
    before = llama.forward([1, 2, 3])
    for bad in ([], [3, -1], [[1, 2], [3]], [1.0], [1] * (MAX_POSITIONS + 1), "hello"):
        with pytest.raises(InputError, match=r"^input_ids: "):
            llama.forward(bad)  # type: ignore[arg-type]
        assert torch.equal(llama.forward([1, 2, 3]), before)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_ids_of_any_integer_type_are_taken(llama: SplitLlama, dtype: torch.dtype) -> None:
    expected = llama.forward([[1, 2, 3]])
    assert torch.equal(llama.forward(torch.tensor([[1, 2, 3]], dtype=dtype)), expected)


def test_prompts_may_be_lists_tensors_or_arrays(llama: SplitLlama) -> None:
    expected = llama.forward([[1, 2, 3]])
    assert torch.equal(llama.forward([1, 2, 3]), expected)
    assert torch.equal(llama.forward((1, 2, 3)), expected)
    assert torch.equal(llama.forward(torch.tensor([1, 2, 3])), expected)
    assert torch.equal(llama.forward(np.array([[1, 2, 3]])), expected)
    every_other = torch.tensor([[1, 9, 2, 9, 3, 9]])[:, ::2]
    assert torch.equal(llama.forward(every_other), expected)


def test_the_prompt_is_left_as_it_is(llama: SplitLlama) -> None:
    input_ids = torch.tensor([[5, 6, 7]])
    llama.forward(input_ids)
    assert input_ids.tolist() == [[5, 6, 7]]


def test_the_longest_prompt_is_taken(llama: SplitLlama) -> None:
    assert llama.forward([1] * MAX_POSITIONS).shape == (1, 96)


def test_logits_are_float32_one_row_per_prompt(llama: SplitLlama) -> None:
    logits = llama.forward(random_ids(llama.config, 3, 5))
    assert logits.shape == (3, 96)
    assert logits.dtype == torch.float32
    assert logits.is_contiguous()
    assert bool(logits.isfinite().all())


def test_logits_survive_further_forwards(llama: SplitLlama) -> None:
    kept = llama.forward([1, 2, 3])
    copy = kept.clone()
    for seed in range(5):
        llama.forward(random_ids(llama.config, 1, 3, seed))
    assert torch.equal(kept, copy)


def test_logits_belong_to_the_caller(llama: SplitLlama) -> None:
    expected = llama.forward([1, 2, 3]).clone()
    llama.forward([1, 2, 3]).zero_()
    assert torch.equal(llama.forward([1, 2, 3]), expected)


@pytest.mark.parametrize("stage", STAGES)
def test_logits_are_out_of_the_worker_s_reach(
    checkpoint: Checkpoint, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[torch.Tensor] = []
    monkeypatch.setattr(CpuDevice, "register", lambda _, memory: shared.append(memory))
    with serve_in_thread(checkpoint, stage) as served:
        logits = served.forward([1, 2, 3])
        copy = logits.clone()
        for memory in shared:
            memory.fill_(0xFF)
        assert torch.equal(logits, copy)
        assert bool(shared) == (STAGES[stage].transport == "shared-memory")
        shared.clear()
        assert torch.equal(served.forward([1, 2, 3]), copy)


def test_logits_outlive_the_llama(checkpoint: Checkpoint) -> None:
    for stage in STAGES:
        with serve_in_thread(checkpoint, stage) as served:
            logits = served.forward([1, 2, 3])
            copy = logits.clone()
        assert torch.equal(logits, copy)


def test_no_graph_is_recorded(llama: SplitLlama) -> None:
    with torch.enable_grad():
        assert not llama.forward([1, 2, 3]).requires_grad


@pytest.mark.parametrize("stage", FLOAT32_STAGES)
@pytest.mark.parametrize("tokens", [1, 20, 40])
def test_a_batch_answers_as_its_prompts_alone(
    checkpoint: Checkpoint, stage: str, tokens: int
) -> None:
    input_ids = random_ids(checkpoint.config, 3, tokens)
    with serve_in_thread(checkpoint, stage) as served:
        together = served.forward(input_ids)
        alone = torch.cat([served.forward(prompt) for prompt in input_ids])
    assert difference(together, alone) <= FLOAT32_BOUND


def test_threads_take_turns(llama: SplitLlama) -> None:
    prompts = [random_ids(llama.config, 1, tokens, tokens) for tokens in (3, 30, 7, 50)]
    expected = [llama.forward(prompt) for prompt in prompts]
    answers: list[list[torch.Tensor]] = [[] for _ in prompts]

    def ask(index: int) -> None:
        answers[index].extend(llama.forward(prompts[index]) for _ in range(5))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(got) for got in answers] == [5] * len(prompts)
    for got, wanted in zip(answers, expected, strict=True):
        assert all(torch.equal(logits, wanted) for logits in got)
