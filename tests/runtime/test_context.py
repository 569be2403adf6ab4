"""Texts that grow, each with a cache of its own: what they answer, and that nothing of them is left."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runtime import STAGES, SplitLlama
from runtime.caches import MOST_CACHES, MOST_PROMPTS, cache_bytes
from runtime.checkpoints import Checkpoint
from runtime.context import Context
from runtime.devices.base import Device
from runtime.errors import ArenaError, InputError, ProtocolError, WorkerDied, WorkerError
from runtime.transports.registry import TRANSPORTS
from tests.runtime.models import (
    BFLOAT16_BOUND,
    FLOAT32_BOUND,
    difference,
    positions_for,
    random_ids,
    reference_logits,
    reference_model,
    rope_kinds,
    serve_with_device,
    small_config,
    temporary_model,
)
from tests.runtime.peers import run_script, tiny, wait_until, worker_pid

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = small_config()
POSITIONS = 64
FLOAT32_STAGES = tuple(name for name, stage in STAGES.items() if stage.dtype == "float32")
TOO_MUCH = 1 << 60  # bytes, for any machine
RANDOM = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Served = tuple[SplitLlama, Device]


def bound(llama: SplitLlama) -> float:
    return FLOAT32_BOUND if llama.stage.dtype == "float32" else BFLOAT16_BOUND


def assert_nothing_kept(served: Served) -> None:
    """After the next call the worker keeps no cache."""
    llama, device = served
    llama.ping()
    assert device._caches == {}
    assert len(llama._rpc.caches) == 0
    assert not llama.abandoned


# What a context answers


@given(batch=st.integers(1, 3), pieces=st.lists(st.integers(1, 20), min_size=1, max_size=8))
@settings(RANDOM, max_examples=12)
def test_a_text_in_any_pieces_answers_as_the_whole(
    served: Served, batch: int, pieces: list[int]
) -> None:
    llama, _ = served
    ids = random_ids(CONFIG, batch, min(POSITIONS, sum(pieces)))
    with llama.open_context(batch) as context:
        for piece in pieces:
            part = ids[:, context.length : context.length + piece]
            if part.numel():
                logits = context.append(part)
                expected = llama.forward(ids[:, : context.length])
                assert logits.dtype == torch.float32
                assert difference(logits, expected) <= bound(llama)
    assert_nothing_kept(served)


@given(kept=st.integers(0, 30), more=st.integers(1, 30))
@settings(RANDOM, max_examples=12)
def test_a_text_that_was_cut_answers_as_a_fresh_one(served: Served, kept: int, more: int) -> None:
    llama, _ = served
    first, other = random_ids(CONFIG, 2, 30, seed=1), random_ids(CONFIG, 2, more, seed=2)
    with llama.open_context(2) as context, llama.open_context(2) as fresh:
        context.append(first)
        context.trim(kept)
        assert context.length == kept
        cut = context.append(other)
        whole = fresh.append(torch.cat((first[:, :kept], other), dim=1))
    assert difference(cut, whole) <= bound(llama)


@pytest.mark.parametrize("stage", ["shared-memory", "fused"])
@pytest.mark.parametrize("kind", rope_kinds(16))
def test_an_emptied_text_begins_anew_with_every_rope_scaling(kind: str, stage: str) -> None:
    """Nothing is left of how long it was: some scalings depend on that."""
    config = small_config(
        rope_parameters=rope_kinds(16)[kind], max_position_embeddings=positions_for(kind)
    )
    with (
        temporary_model(config) as checkpoint,
        serve_with_device(checkpoint, stage) as (llama, _),
        llama.open_context() as context,
    ):
        for tokens in (60, 5, 40):
            ids = random_ids(config, 1, tokens, seed=tokens)
            expected = reference_logits(reference_model(checkpoint), ids)
            assert difference(context.append(ids), expected) <= FLOAT32_BOUND
            context.trim(0)


class Texts(RuleBasedStateMachine):
    """Several texts of one llama, in any order: each answers as if it were alone."""

    texts = Bundle("texts")

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.llama, self.device = served
        self.bound = bound(self.llama)

    @initialize(target=texts)
    def begin(self) -> object:
        return multiple(*(self.opened(batch) for batch in (1, 1, 2)))

    def opened(self, batch: int) -> list[object]:
        return [self.llama.open_context(batch), torch.empty(batch, 0, dtype=torch.int64)]

    @rule(target=texts, batch=st.integers(1, 2))
    @precondition(lambda self: len(self.llama._rpc.caches) < MOST_CACHES)
    def open(self, batch: int) -> list[object]:
        return self.opened(batch)

    @rule(text=texts, rows=st.sampled_from((1, 1, 1, 2, 9)), seed=st.integers(0, 9))
    def append(self, text: list[object], rows: int, seed: int) -> None:
        context, ids = text
        assert isinstance(context, Context)
        assert isinstance(ids, torch.Tensor)
        new = random_ids(CONFIG, context.batch, rows, seed)
        if context.length + rows > POSITIONS:
            with pytest.raises(InputError, match=r"^input_ids: "):
                context.append(new)
            return
        try:
            logits = context.append(new)
        except ProtocolError:
            assert len(self.llama._rpc.caches) == MOST_CACHES
            assert context.length == 0
            return
        text[1] = ids = torch.cat((ids, new), dim=1)
        assert difference(logits, self.llama.forward(ids)) <= self.bound

    @rule(text=texts, share=st.sampled_from((0.0, 0.5, 1.0)))
    def trim(self, text: list[object], share: float) -> None:
        context, ids = text
        assert isinstance(context, Context)
        assert isinstance(ids, torch.Tensor)
        length = int(context.length * share)
        context.trim(length)
        text[1] = ids[:, :length]

    @rule(text=consumes(texts), forgotten=st.booleans())
    def end(self, text: list[object], forgotten: bool) -> None:
        context = text.pop(0)
        assert isinstance(context, Context)
        if not forgotten:
            context.close()

    def teardown(self) -> None:
        self.bundles.clear()
        self.names_to_values.clear()


@pytest.mark.parametrize("stage", STAGES)
def test_texts_of_one_llama_never_see_each_other(small: Checkpoint, stage: str) -> None:
    with serve_with_device(small, stage) as served:
        run_state_machine_as_test(
            lambda: Texts(served),  # type: ignore[arg-type]  # what makes one will do
            settings=settings(
                max_examples=8,
                stateful_step_count=25,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        gc.collect()
        assert_nothing_kept(served)


# What is refused


@pytest.fixture
def context(served: Served) -> Iterator[Context]:
    with served[0].open_context(2, 10) as context:
        context.append([[1, 2, 3], [4, 5, 6]])
        yield context


def test_what_does_not_fit_is_refused_by_name_and_harms_nothing(context: Context) -> None:
    refusals: list[tuple[str, Callable[[], object]]] = [
        ("input_ids: the context has 2 conversations, got 1", lambda: context.append([7])),
        ("input_ids: the context has 2 conversations, got 3", lambda: context.append([[7]] * 3)),
        ("input_ids: 3 tokens are kept, 8 more", lambda: context.append([[7] * 8] * 2)),
        ("input_ids: token id 96 is not", lambda: context.append([[96], [1]])),
        ("input_ids: the prompt is empty", lambda: context.append([[], []])),
        ("length: must be from 0 to the 3", lambda: context.trim(4)),
        ("length: must be from 0 to the 3", lambda: context.trim(-1)),
        ("length: must be from 0 to the 3", lambda: context.trim(True)),
    ]
    for words, refused in refusals:
        with pytest.raises(InputError) as caught:
            refused()
        assert str(caught.value).startswith(words)
    assert context.length == 3
    context.append([[7] * 7] * 2)
    assert context.length == 10


@pytest.mark.parametrize(
    ("name", "batch", "capacity"),
    [
        ("batch", 0, 9),
        ("batch", -1, 9),
        ("batch", True, 9),
        ("batch", MOST_PROMPTS + 1, 9),
        ("capacity", 1, 0),
        ("capacity", 1, POSITIONS + 1),
        ("capacity", 1, 2.0),
    ],
)
def test_a_context_of_a_size_that_is_none_is_refused(
    served: Served, name: str, batch: int, capacity: int
) -> None:
    with pytest.raises(InputError, match=f"^{name}: "):
        served[0].open_context(batch, capacity)


def test_a_closed_context_is_refused(served: Served) -> None:
    context = served[0].open_context()
    context.append([1])
    context.close()
    context.close()
    for use in (lambda: context.append([1]), lambda: context.trim(0)):
        with pytest.raises(InputError, match=r"^context: is closed"):
            use()
    assert_nothing_kept(served)


def test_one_context_too_many_is_refused_and_the_conversation_goes_on(served: Served) -> None:
    llama, _ = served
    contexts = [llama.open_context() for _ in range(MOST_CACHES + 1)]
    for context in contexts[:-1]:
        context.append([1, 2])
    with pytest.raises(ProtocolError, match=f"{MOST_CACHES} are open; close one first"):
        contexts[-1].append([1, 2])
    contexts[0].close()
    contexts[-1].append([1, 2])
    for context in contexts:
        context.close()
    assert_nothing_kept(served)


# What is left of a context that fails, or that nobody has any more


def test_a_context_that_nobody_has_any_more_is_given_back(served: Served) -> None:
    llama, device = served
    context = llama.open_context()
    context.append([1, 2, 3])
    assert len(device._caches) == 1
    del context  # at once: it is no part of a cycle
    assert_nothing_kept(served)


def test_many_contexts_that_nobody_closed_are_no_obstacle(served: Served) -> None:
    llama, _ = served
    for _ in range(3 * MOST_CACHES):
        llama.open_context().append([1, 2, 3])
    assert_nothing_kept(served)


def fail_at(
    monkeypatch: pytest.MonkeyPatch,
    target: object,
    name: str,
    call: int,
    failure: Callable[..., object],
) -> None:
    """Have the ``call``-th call of ``target.name`` do what ``failure`` does."""
    original = getattr(target, name)
    calls = iter(range(1, 1 << 30))

    def sometimes(*arguments: object, **named: object) -> object:
        chosen = failure if next(calls) == call else original
        return chosen(*arguments, **named)

    monkeypatch.setattr(target, name, sometimes)


def interrupt(*_: object, **__: object) -> object:
    raise KeyboardInterrupt


FAILURES: dict[str, tuple[str, str, Callable[..., object], type[BaseException]]] = {
    "no memory to share": ("split_llama", "live_bytes", lambda *_: TOO_MUCH, ArenaError),
    "interrupted between calls": ("forward", "rms_norm", interrupt, KeyboardInterrupt),
    "interrupted before a piece": ("split_llama", "live_bytes", interrupt, KeyboardInterrupt),
}


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("what", FAILURES)
def test_an_append_that_fails_leaves_the_text_as_it_was(
    served: Served, monkeypatch: pytest.MonkeyPatch, what: str, call: int, start: int
) -> None:
    llama, _ = served
    module, name, failure, error = FAILURES[what]
    if name == "rms_norm" and (call > 1 and llama.stage.granularity != "operation"):
        call = 1  # only the last norm is computed here
    if not TRANSPORTS[llama.stage.transport].shares_memory and error is ArenaError:
        failure, error = interrupt, KeyboardInterrupt  # it shares no memory
    ids = random_ids(CONFIG, 1, 31)  # a last piece of more than one token
    with llama.open_context() as context:
        if start:
            context.append(ids[:, :start])
        with monkeypatch.context() as patch:
            patch.setattr("runtime.chunks.CHUNK_TOKENS", 8)
            target = __import__(f"runtime.{module}", fromlist=[name])
            fail_at(patch, target, name, call, failure)
            with pytest.raises(error):
                context.append(ids[:, start:])
        assert context.length == start
        logits = context.append(ids[:, start:])
        assert difference(logits, llama.forward(ids)) <= bound(llama)
    assert_nothing_kept(served)


def test_a_long_forward_that_fails_keeps_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama, _ = served
    monkeypatch.setattr("runtime.chunks.CHUNK_TOKENS", 8)
    expected = llama.forward(random_ids(CONFIG, 1, 30))
    with monkeypatch.context() as patch:
        patch.setattr("runtime.split_llama.live_bytes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            llama.forward(random_ids(CONFIG, 1, 30))
    assert_nothing_kept(served)
    assert torch.equal(llama.forward(random_ids(CONFIG, 1, 30)), expected)


@pytest.mark.parametrize("stage", ["baseline", "fused"])
def test_a_worker_that_dies_ends_its_contexts_with_a_typed_error(stage: str) -> None:
    with SplitLlama.launch(tiny(), stage, threads=1) as llama:
        with llama.open_context() as context:
            context.append([1, 2, 3])
            worker = psutil.Process(worker_pid(llama))
            worker.kill()
            with pytest.raises(WorkerDied):
                context.append([4])
            with pytest.raises(WorkerError):
                context.trim(0)
        with pytest.raises(WorkerError), llama.open_context() as another:
            another.append([1])


def test_a_context_outlives_its_llama(small: Checkpoint) -> None:
    with serve_with_device(small, "fused") as (llama, _):
        context = llama.open_context()
        context.append([1, 2])
    with pytest.raises(WorkerError, match="this model is closed"):
        context.append([3])
    context.close()
    context.close()


def test_a_client_that_ends_leaves_no_cache(small: Checkpoint) -> None:
    with serve_with_device(small, "fused") as (llama, device):
        context = llama.open_context()
        context.append([1, 2])
        assert len(device._caches) == 1
    assert device._caches == {}
    context.close()


# Threads and forks


def test_threads_that_share_a_context_append_one_after_the_other(served: Served) -> None:
    llama, _ = served
    start = threading.Barrier(4)
    with llama.open_context() as context:

        def append() -> None:
            start.wait(30)
            for _ in range(4):
                context.append([1, 2, 3])

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(append) for _ in range(4)]:
                done.result(60)
        assert context.length == 48
        expected = llama.forward([1, 2, 3] * 17)
        assert difference(context.append([1, 2, 3]), expected) <= bound(llama)
    assert_nothing_kept(served)


def test_a_context_closed_by_another_thread_is_closed(served: Served) -> None:
    context = served[0].open_context()
    context.append([1, 2])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(context.close).result(30)
    with pytest.raises(InputError, match=r"^context: is closed"):
        context.append([3])
    assert_nothing_kept(served)


@pytest.mark.parametrize("stage", ["baseline", "fused"])
def test_a_fork_neither_uses_nor_closes_its_parents_context(stage: str) -> None:
    code = """
import os, sys, runtime
llama = runtime.SplitLlama.launch(runtime.load_checkpoint("tiny"), sys.argv[1], threads=1)
context = llama.open_context()
context.append([1, 2, 3])
child = os.fork()
if child == 0:
    try:
        context.append([4])
    except runtime.SplitError as error:
        context.close()
        del context, llama
        os._exit(0 if "fork" in str(error) else 3)
    os._exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert context.append([4]).argmax() == llama.forward([1, 2, 3, 4]).argmax()
llama.close()
"""
    run_script(code, arguments=[stage])


# Memory


@pytest.mark.parametrize("stage", ["shared-memory", "fused", "resident"])
def test_a_worker_gives_back_the_bytes_of_a_cache_as_the_formula_has_them(stage: str) -> None:
    """Measured where it is closed: what else grows while it is filled depends on what was free before."""
    batch, tokens, piece = 16, 1024, 128
    with SplitLlama.launch(tiny(), stage, threads=1) as llama:
        worker = psutil.Process(worker_pid(llama))

        def resident() -> int:
            return int(worker.memory_info().rss)

        expected = cache_bytes(llama.config, 4 if stage != "resident" else 2, batch, tokens)
        if stage == "resident" and "float32 products" in llama.worker_info["kernels"]:
            expected *= 2  # a processor that does not multiply bfloat16 keeps what it computes with
        highest = full = 0
        for _ in range(3):
            with llama.open_context(batch, tokens) as context:
                for _ in range(tokens // piece):
                    context.append(random_ids(llama.config, batch, piece))
                full = resident()
            highest = highest or full
            assert wait_until(lambda: full - resident() >= 0.95 * expected)  # noqa: B023
            assert full - resident() == pytest.approx(expected, rel=0.05)
        assert full - highest < expected / 2  # and the next takes no more than the first
