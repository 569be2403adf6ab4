"""Continuing prompts: the tokens of ``transformers.generate``, where an answer ends, and what is left of it."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.caches import MOST_CACHES
from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.checkpoints.tokenizer import ByteTokenizer
from runtime.devices.base import Device
from runtime.errors import ArenaError, InputError, ProtocolError, WorkerDied, WorkerError
from runtime.generation import Generation
from runtime.rope import max_length
from tests.runtime.models import (
    BFLOAT16_BOUND,
    DEVICES,
    difference,
    model_configs,
    positions_for,
    random_ids,
    reference_answer,
    reference_logits,
    reference_model,
    rope_kinds,
    serve_in_thread,
    serve_with_device,
    small_config,
    temporary_model,
    text_ids,
    write_model,
)
from tests.runtime.peers import run_script, tiny, worker_pid

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = small_config()
POSITIONS = 64
FLOAT32_STAGES = tuple(name for name, stage in STAGES.items() if stage.dtype == "float32")
BFLOAT16_STAGES = tuple(name for name in STAGES if name not in FLOAT32_STAGES)
TIE = 1e-4  # of the largest logit: two so near may change places
RANDOM = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Served = tuple[SplitLlama, Device]


def streamed(llama: SplitLlama, input_ids: Any, *arguments: Any, **named: Any) -> Generation:
    generation = llama.generate(input_ids, *arguments, stream=True, **named)
    assert isinstance(generation, Generation)
    return generation


def answered(llama: SplitLlama, input_ids: Any, *arguments: Any, **named: Any) -> torch.Tensor:
    answer = llama.generate(input_ids, *arguments, **named)
    assert isinstance(answer, torch.Tensor)
    return answer


def assert_nothing_kept(served: Served) -> None:
    """After the next call the worker keeps no cache."""
    llama, device = served
    llama.ping()
    assert device._caches == {}
    assert len(llama._rpc.caches) == 0


# The tokens of transformers


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelConfig, int, int, int, int]:
    """A model, a batch, lengths of prompt and answer, and a seed."""
    config = draw(model_configs())
    tokens = draw(st.integers(1, max_length(config) - 1))
    new = draw(st.integers(1, min(24, max_length(config) - tokens)))
    return config, draw(st.integers(1, 3)), tokens, new, draw(st.integers(0, 1000))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", FLOAT32_STAGES)
@given(case=cases())
@RANDOM
def test_greedy_tokens_are_those_of_transformers_on_any_llama(
    stage: str, device: str, case: tuple[ModelConfig, int, int, int, int]
) -> None:
    config, batch, tokens, new, seed = case
    input_ids = random_ids(config, batch, tokens, seed)
    with (
        temporary_model(config, seed) as checkpoint,
        serve_in_thread(checkpoint, stage, device) as llama,
    ):
        answer = answered(llama, input_ids, new)
        expected = reference_answer(reference_model(checkpoint), input_ids, new)
    assert answer.dtype == torch.int64
    assert answer.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", rope_kinds(16))
def test_an_answer_may_grow_beyond_what_a_rope_scaling_was_made_for(kind: str) -> None:
    config = small_config(
        rope_parameters=rope_kinds(16)[kind], max_position_embeddings=positions_for(kind)
    )
    prompts = [random_ids(config, 2, tokens, seed=tokens) for tokens in (1, 10, 16, 23, 24, 40)]
    with temporary_model(config) as checkpoint:
        # Made anew: dynamic frequencies of theirs keep something of a longer text before.
        expected = [
            reference_answer(reference_model(checkpoint), prompt, 25).tolist() for prompt in prompts
        ]
        for stage in FLOAT32_STAGES:
            with serve_in_thread(checkpoint, stage) as llama:
                assert [answered(llama, prompt, 25).tolist() for prompt in prompts] == expected, (
                    stage
                )


@pytest.mark.parametrize("stage", FLOAT32_STAGES)
def test_a_prompt_in_pieces_is_continued_alike(
    small: Checkpoint, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.chunks.CHUNK_TOKENS", 8)
    input_ids = random_ids(CONFIG, 2, 33)
    expected = reference_answer(reference_model(small), input_ids, 20)
    with serve_in_thread(small, stage) as llama:
        assert answered(llama, input_ids, 20).tolist() == expected.tolist()


PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "Q: How many legs has a spider?\nA:",
    "def fibonacci(n):",
    "The three laws of thermodynamics are",
    "Dear Sir or Madam,",
    "1, 2, 4, 8, 16,",
    "A recipe for bread: first,",
)
NEW = 64


class Real:
    """SmolLM2 on eight prompts of one length, and what ``transformers`` makes of them."""

    def __init__(self) -> None:
        self.checkpoint = load_checkpoint("smollm2-135m")
        tokenizer = self.checkpoint.tokenizer()
        tokenized = [tokenizer.encode(prompt) for prompt in PROMPTS]
        length = min(map(len, tokenized))
        self.prompts = torch.tensor([ids[:length] for ids in tokenized])
        self.model: LlamaForCausalLM = reference_model(self.checkpoint)
        self.answers = reference_answer(self.model, self.prompts, NEW)

    @cached_property
    def expected(self) -> torch.Tensor:
        """(tokens, prompts, vocabulary): the logits after each token of the answers."""
        return logits_at_each(self.model, self.answers)


@pytest.fixture(scope="module")
def real() -> Real:
    return Real()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", FLOAT32_STAGES)
def test_greedy_tokens_are_those_of_transformers_on_real_weights(
    real: Real, stage: str, device: str
) -> None:
    with SplitLlama.launch(real.checkpoint, stage, device) as llama:
        answers = answered(llama, real.prompts, NEW, ignore_eos=True)
    assert answers.shape == real.answers.shape
    for prompt, answer, expected in zip(PROMPTS, answers, real.answers, strict=True):
        apart = (answer != expected).nonzero()
        if not len(apart):
            continue
        # Two tokens were as good as equal: which of them it is decides all that follow.
        place = int(apart[0])
        logits = reference_logits(real.model, expected[None, :place])[0]
        best, second = logits.topk(2).values.tolist()
        assert best - second < TIE * float(logits.abs().max()), (
            f"position {place} of {prompt!r}: {int(answer[place])} for {int(expected[place])}, {best} over {second}"
        )
        print(f"a tie at position {place} of {prompt!r}: {best} and {second}")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", BFLOAT16_STAGES)
def test_bfloat16_stages_are_near_at_each_token_of_real_weights(
    real: Real, stage: str, device: str
) -> None:
    batch, first = real.prompts.shape
    with (
        SplitLlama.launch(real.checkpoint, stage, device) as llama,
        llama.open_context(batch) as context,
    ):
        for end in range(first, real.answers.shape[1]):
            part = real.answers[:, (0 if end == first else end - 1) : end]
            assert difference(context.append(part), real.expected[end - 1]) <= BFLOAT16_BOUND


@pytest.mark.parametrize("stage", BFLOAT16_STAGES)
def test_bfloat16_stages_are_near_at_each_token(stage: str) -> None:
    checkpoint = tiny()
    ids = torch.tensor([text_ids(checkpoint, 60)])
    expected = logits_at_each(reference_model(checkpoint), ids)
    with serve_in_thread(checkpoint, stage) as llama, llama.open_context() as context:
        for end in range(20, 60):
            part = ids[:, :end] if end == 20 else ids[:, end - 1 : end]
            assert difference(context.append(part), expected[end - 1]) <= BFLOAT16_BOUND


@torch.inference_mode()
def logits_at_each(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """(tokens, prompts, vocabulary): after each of the prompts' tokens."""
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.transpose(0, 1).float()


# Where an answer ends


def first_answer(llama: SplitLlama, prompts: torch.Tensor, new: int = 12) -> list[list[int]]:
    return answered(llama, prompts, new)[:, prompts.shape[1] :].tolist()


def ends_with(folder: Any, *tokens: int) -> Checkpoint:
    """The small model with these end tokens."""
    write_model(folder / "model", CONFIG)
    (folder / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": tokens}))
    return load_checkpoint(folder / "model", cache_dir=folder / "cache")


def test_a_stop_token_ends_the_answer_and_belongs_to_it(served: Served) -> None:
    llama, _ = served
    prompt = random_ids(CONFIG, 1, 5)
    (whole,) = first_answer(llama, prompt)
    stop = whole[4]
    generation = streamed(llama, prompt, 12, stop=[stop])
    tokens = [int(token) for token in generation]
    assert tokens == whole[: whole.index(stop) + 1]
    assert generation.finish_reasons == ["stop"]
    assert generation.tokens.tolist() == [prompt[0].tolist() + tokens]
    assert_nothing_kept(served)


def test_the_longest_answer_ends_by_its_length(served: Served) -> None:
    llama, _ = served
    generation = streamed(llama, [1, 2, 3], 5)
    assert generation.finish_reasons == [None]
    assert len(list(generation)) == 5
    assert generation.finish_reasons == ["length"]
    assert list(generation) == []
    assert generation.finish().shape == (1, 8)


def test_an_end_token_of_the_checkpoint_ends_the_answer_as_in_transformers(tmp_path: Any) -> None:
    with temporary_model(CONFIG) as plain, serve_in_thread(plain, "fused") as llama:
        prompts = random_ids(CONFIG, 3, 5)
        answers = first_answer(llama, prompts, 16)
    end = answers[0][3]
    checkpoint = ends_with(tmp_path, end, 95)
    model = reference_model(checkpoint)
    expected = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=[end, 95],
        pad_token_id=end,
    )
    with serve_in_thread(checkpoint, "fused") as llama:
        generation = streamed(llama, prompts, 16)
        assert generation.finish().tolist() == expected.tolist()
    reasons = ["eos" if {end, 95} & set(row) else "length" for row in answers]
    assert generation.finish_reasons == reasons
    assert "eos" in reasons


@pytest.mark.parametrize("ends", [(90, 91), ()], ids=["padded", "none to pad with"])
def test_a_prompt_that_is_finished_waits_for_the_others(tmp_path: Any, ends: tuple[int]) -> None:
    checkpoint = ends_with(tmp_path, *ends)
    with serve_in_thread(checkpoint, "shared-memory") as llama:
        prompts = random_ids(CONFIG, 3, 6, seed=3)
        alone = [first_answer(llama, prompt[None], 10)[0] for prompt in prompts]
        stop = alone[0][2]
        assert sum(stop in row for row in alone) < 3, "one must go on"
        generation = streamed(llama, prompts, 10, stop=[stop])
        together = generation.finish()[:, 6:].tolist()
    for row, (mine, theirs) in enumerate(zip(together, alone, strict=True)):
        length = theirs.index(stop) + 1 if stop in theirs else 10
        assert mine[:length] == theirs[:length]
        if ends:
            assert mine[length:] == [90] * (10 - length)
        assert generation.finish_reasons[row] == ("stop" if stop in theirs else "length")


def test_end_tokens_beyond_the_vocabulary_pad_nothing(tmp_path: Any) -> None:
    checkpoint = ends_with(tmp_path, 128_001)
    with serve_in_thread(checkpoint, "fused") as llama:
        prompts = random_ids(CONFIG, 2, 6)
        stop = first_answer(llama, prompts[:1])[0][0]
        assert answered(llama, prompts, 6, stop=[stop]).max() < 96


def test_a_stop_string_ends_the_answer_where_it_is_whole(served: Served) -> None:
    llama, _ = served
    tokenizer = ByteTokenizer(96)
    prompt = random_ids(CONFIG, 1, 5)
    (whole,) = first_answer(llama, prompt)
    text = tokenizer.decode(whole)
    ends = [
        index
        for index in range(1, len(whole) + 1)
        if text and tokenizer.decode(whole[:index]).endswith(text[-2:])
    ]
    generation = streamed(llama, prompt, 12, stop=[text[-2:]], tokenizer=tokenizer)
    assert [int(token) for token in generation] == whole[: ends[0]]
    assert generation.finish_reasons == ["stop"]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"stop": "ab"}, "stop: "),
        ({"stop": 5}, "stop: "),
        ({"stop": [""]}, "stop: "),
        ({"stop": [1.5]}, "stop: "),
        ({"stop": ["ab"]}, "tokenizer: "),
        ({"max_new_tokens": 0}, "max_new_tokens: "),
        ({"max_new_tokens": -1}, "max_new_tokens: "),
        ({"max_new_tokens": 1.0}, "max_new_tokens: "),
        ({"max_new_tokens": True}, "max_new_tokens: "),
        ({"max_new_tokens": POSITIONS - 1}, "max_new_tokens: 3 tokens and 63 new ones exceed"),
        ({"temperature": -1.0}, "temperature: "),
        ({"top_p": 2.0}, "top_p: "),
        ({"seed": -1}, "seed: "),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_option_that_is_none_is_refused_before_anything_is_computed(
    served: Served, named: dict[str, Any], words: str, stream: bool
) -> None:
    llama, _ = served
    before = llama.last_trace
    with pytest.raises(InputError) as caught:
        (streamed if stream else answered)(llama, [1, 2, 3], **{"max_new_tokens": 4, **named})
    assert str(caught.value).startswith(words)
    assert llama.last_trace is before
    assert_nothing_kept(served)


def test_an_answer_may_take_all_positions(served: Served) -> None:
    # The last token is chosen, and not computed with.
    assert answered(served[0], [1, 2, 3], POSITIONS - 2).shape == (1, POSITIONS + 1)
    assert answered(served[0], [1] * POSITIONS, 1).shape == (1, POSITIONS + 1)


# Streaming


def test_tokens_come_one_by_one_and_are_the_callers_own(served: Served) -> None:
    llama, _ = served
    prompts = random_ids(CONFIG, 2, 5)
    expected = answered(llama, prompts, 8)
    generation = streamed(llama, prompts, 8)
    assert generation.totals is None
    for place, token in enumerate(generation, start=5):
        assert token.dtype == torch.int64
        assert torch.equal(token, expected[:, place])
        assert torch.equal(generation.tokens, expected[:, : place + 1])
        token.zero_()  # changes nothing that comes
    assert torch.equal(generation.tokens, expected)
    assert generation.ttft_s > 0
    assert len(generation.token_s) == 7
    assert all(seconds > 0 for seconds in generation.token_s)


def test_a_prompt_that_its_owner_changes_later_is_as_it_was(served: Served) -> None:
    llama, _ = served
    prompt = random_ids(CONFIG, 1, 5)
    expected = answered(llama, prompt, 4)
    generation = streamed(llama, prompt, 4)
    prompt.fill_(10**6)
    assert torch.equal(generation.finish(), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_ids_of_any_integer_type_are_continued(served: Served, dtype: torch.dtype) -> None:
    llama, _ = served
    prompt = random_ids(CONFIG, 2, 5)
    expected = answered(llama, prompt, 6, repetition_penalty=1.3)
    answer = answered(llama, prompt.to(dtype), 6, repetition_penalty=1.3)
    assert answer.dtype == torch.int64
    assert torch.equal(answer, expected)


def test_a_seed_makes_the_same_answer_at_every_stage_of_a_dtype(small: Checkpoint) -> None:
    prompt = random_ids(CONFIG, 2, 5)
    options: dict[str, Any] = {"temperature": 0.8, "top_k": 20, "top_p": 0.9}
    answers = []
    for stage in FLOAT32_STAGES:
        with serve_in_thread(small, stage) as llama:
            answers += [answered(llama, prompt, 12, seed=seed, **options) for seed in (1, 1, 2)]
    assert all(torch.equal(answer, answers[0]) for answer in (*answers[1::3], *answers[::3]))
    assert not torch.equal(answers[2], answers[0])


# Continuing a context


def test_a_context_is_continued_and_stays_open(served: Served) -> None:
    llama, _ = served
    first, second = random_ids(CONFIG, 2, 7, seed=1), random_ids(CONFIG, 2, 5, seed=2)
    with llama.open_context(2) as context:
        one = answered(llama, first, 6, context=context)
        assert context.length == 12  # the last token is chosen, and not there yet
        two = answered(llama, torch.cat((one[:, -1:], second), dim=1), 6, context=context)
        whole = torch.cat((one, second), dim=1)
        assert context.length == 12 + 6 + 5
        if llama.stage.dtype == "float32":
            assert torch.equal(two[:, -6:], answered(llama, whole, 6)[:, -6:])
        context.trim(3)
        context.append(first[:, 3:])
        again = answered(llama, one[:, 7:8], 5, context=context)
        if llama.stage.dtype == "float32":
            assert torch.equal(again, one[:, 7:])
    assert_nothing_kept(served)


def test_a_context_that_does_not_fit_is_refused(served: Served, small: Checkpoint) -> None:
    llama, _ = served
    with (
        serve_in_thread(small, "fused") as another,
        another.open_context() as theirs,
        llama.open_context(2, 8) as two,
    ):
        with pytest.raises(InputError, match=r"^context: "):
            llama.generate([1], context=theirs)
        with pytest.raises(InputError, match=r"^max_new_tokens: 4 tokens and 6 new ones exceed"):
            llama.generate([[1] * 4] * 2, 6, context=two)
        with pytest.raises(InputError, match=r"^input_ids: the context has 2 conversations"):
            llama.generate([1], 2, context=two)
        answered(llama, [[1] * 4] * 2, 5, context=two)
        assert two.length == 8
    closed = llama.open_context()
    closed.close()
    with pytest.raises(InputError, match=r"^context: is closed"):
        llama.generate([1], 2, context=closed)


# What is left of an answer that does not come to its end


ENDINGS: dict[str, Callable[[Generation], None]] = {
    "closed": Generation.close,
    "left": lambda generation: generation.__exit__(None, None, None),
    "forgotten": lambda generation: None,
}


@pytest.mark.parametrize("made", [0, 1, 3])
@pytest.mark.parametrize("how", ENDINGS)
def test_an_answer_that_is_not_finished_gives_its_cache_back(
    served: Served, how: str, made: int
) -> None:
    llama, device = served
    generation = streamed(llama, [1, 2, 3], 9)
    for _ in range(made):
        next(generation)
    assert len(device._caches) == (1 if made else 0)
    ENDINGS[how](generation)
    if how != "forgotten":
        assert device._caches == {}
        assert list(generation) == []
        assert generation.finish_reasons == [None]
    del generation  # at once: it is no part of a cycle
    assert_nothing_kept(served)


def test_a_loop_that_is_left_gives_its_cache_back(served: Served) -> None:
    llama, _ = served
    for token in streamed(llama, [1, 2, 3], 9):
        assert token.shape == (1,)
        break
    assert_nothing_kept(served)


def test_many_answers_that_nobody_finished_are_no_obstacle(served: Served) -> None:
    llama, _ = served
    expected = answered(llama, [1, 2, 3], 4)
    for _ in range(2 * MOST_CACHES):
        next(streamed(llama, [1, 2, 3], 9))
    assert torch.equal(answered(llama, [1, 2, 3], 4), expected)
    assert_nothing_kept(served)


@pytest.mark.parametrize(
    ("where", "failure", "error"),
    [
        ("runtime.split_llama.live_bytes", lambda *_: 1 << 60, ArenaError),
        ("runtime.sampling._checked", None, ProtocolError),
        ("runtime.sampling.Sampler.choose", None, KeyboardInterrupt),
    ],
    ids=["no memory", "logits that are none", "interrupted"],
)
def test_an_answer_that_fails_gives_its_cache_back(
    small: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    failure: Callable[..., object] | None,
    error: type[BaseException],
) -> None:
    def fail(*_: object) -> object:
        raise error("outputs[0]", "is none") if error is ProtocolError else error

    with serve_with_device(small, "shared-memory") as served:
        llama, device = served
        generation = streamed(llama, [1, 2, 3], 9)
        next(generation)
        with monkeypatch.context() as patch:
            patch.setattr(where, failure or fail)
            with pytest.raises(error):
                next(generation)
        assert device._caches == {}
        assert list(generation) == []
        assert_nothing_kept(served)


@pytest.mark.parametrize("stage", ["baseline", "resident"])
def test_a_worker_that_dies_ends_the_answer_with_a_typed_error(stage: str) -> None:
    with SplitLlama.launch(tiny(), stage, threads=1) as llama:
        generation = streamed(llama, [1, 2, 3], 9)
        next(generation)
        psutil.Process(worker_pid(llama)).kill()
        with pytest.raises(WorkerDied):
            next(generation)
        assert list(generation) == []
        with pytest.raises(WorkerError):
            llama.generate([1, 2, 3], 2)


def test_an_answer_ends_with_its_llama(small: Checkpoint) -> None:
    with serve_in_thread(small, "fused") as llama:
        generation = streamed(llama, [1, 2, 3], 9)
        next(generation)
    with pytest.raises(WorkerError, match="this model is closed"):
        next(generation)
    assert list(generation) == []


# Several at once


def test_answers_that_take_turns_are_those_of_each_alone(served: Served) -> None:
    llama, _ = served
    prompts = [
        random_ids(CONFIG, batch, tokens, tokens) for batch, tokens in ((1, 3), (2, 9), (1, 20))
    ]
    alone = [answered(llama, prompt, 12) for prompt in prompts]
    generations = [streamed(llama, prompt, 12) for prompt in prompts]
    for _ in range(12):
        for generation in generations:
            next(generation)
    for generation, expected in zip(generations, alone, strict=True):
        assert torch.equal(generation.tokens, expected)
    assert_nothing_kept(served)


def test_threads_that_share_an_answer_get_each_token_once(served: Served) -> None:
    llama, _ = served
    expected = answered(llama, [1, 2, 3], 24)[0, 3:].tolist()
    generation = streamed(llama, [1, 2, 3], 24)
    start = threading.Barrier(3)

    def take() -> Sequence[int]:
        start.wait(30)
        return [int(token) for token in generation]

    with ThreadPoolExecutor(3) as pool:
        taken = [
            token for part in [pool.submit(take) for _ in range(3)] for token in part.result(60)
        ]
    assert sorted(taken) == sorted(expected)
    assert generation.tokens[0, 3:].tolist() == expected
    assert_nothing_kept(served)


def test_an_answer_cancelled_by_another_thread_ends(served: Served) -> None:
    llama, _ = served
    generation = streamed(llama, [1, 2, 3], 60)
    first = next(generation)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(generation.close).result(30)
    assert list(generation) == []
    assert generation.tokens.tolist() == [[1, 2, 3, int(first)]]
    assert_nothing_kept(served)


def test_a_fork_is_refused_and_does_not_disturb_its_parents_answer() -> None:
    code = """
import os, runtime
llama = runtime.SplitLlama.launch(runtime.load_checkpoint("tiny"), "fused", threads=1)
whole = llama.generate([1, 2, 3], 6)
generation = llama.generate([1, 2, 3], 6, stream=True)
next(generation)
child = os.fork()
if child == 0:
    try:
        next(generation)
    except runtime.SplitError as error:
        del generation, llama
        os._exit(0 if "fork" in str(error) else 3)
    os._exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert generation.finish().equal(whole)
llama.close()
"""
    run_script(code)


def test_many_short_answers_leave_memory_flat() -> None:
    with SplitLlama.launch(tiny(), "resident", threads=1) as llama:
        worker = psutil.Process(worker_pid(llama))

        def some(count: int) -> list[int]:
            for _ in range(count):
                llama.generate([1, 2, 3], 2)
            gc.collect()
            return [int(process.memory_info().rss) for process in (worker, psutil.Process())]

        before = some(100)
        after = some(900)
    assert all(late - early < 2 << 20 for early, late in zip(before, after, strict=True))
