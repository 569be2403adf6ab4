"""Prompts that are computed in pieces: the same logits, the calls and bytes of the formula, no more shared memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import STAGES, SplitLlama
from runtime.chunks import chunks, in_one_piece
from runtime.stages import Granularity, Stage
from runtime.traffic import Traffic, append_traffic, forward_traffic, live_bytes
from runtime.transports.shared_memory import SharedMemoryClient
from tests.runtime.models import (
    BFLOAT16_BOUND,
    FLOAT32_BOUND,
    difference,
    positions_for,
    random_ids,
    reference_logits,
    reference_model,
    rope_kinds,
    serve_in_thread,
    small_config,
    temporary_model,
)

CHUNK = 7
PATCHED = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.chunks.CHUNK_TOKENS", CHUNK)


# How a prompt is cut


@given(
    granularity=st.sampled_from(("operation", "layer", "model")),
    tokens=st.integers(1, 5000),
    start=st.integers(0, 5000),
    chunk=st.integers(1, 300),
)
@settings(PATCHED, max_examples=200)
def test_pieces_are_in_order_whole_and_as_long_as_they_may_be(
    monkeypatch: pytest.MonkeyPatch, granularity: Granularity, tokens: int, start: int, chunk: int
) -> None:
    monkeypatch.setattr("runtime.chunks.CHUNK_TOKENS", chunk)
    place = start
    for begin, rows in chunks(granularity, tokens, start):
        assert begin == place
        assert rows >= 1
        place += rows
        last = place == start + tokens
        if granularity != "operation" or not begin:
            assert rows == chunk or (last and rows < chunk)
            continue
        # Scores that cross at once: those of a prompt of one piece at most, unless there is but one row.
        assert rows * place <= chunk**2 or rows == 1
        assert (rows + 1) * (place + 1) > chunk**2 or last
    assert place == start + tokens


def test_a_prompt_of_1024_tokens_is_not_cut() -> None:
    assert in_one_piece(1024)
    assert not in_one_piece(1025)
    for stage in STAGES.values():
        assert list(chunks(stage.granularity, 1024)) == [(0, 1024)]


# Logits


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("tokens", [8, 15, 22, 64])
def test_a_prompt_in_pieces_answers_as_in_one(
    monkeypatch: pytest.MonkeyPatch, stage: str, tokens: int
) -> None:
    config = small_config(attention_bias=True)
    with temporary_model(config) as checkpoint, serve_in_thread(checkpoint, stage) as llama:
        input_ids = random_ids(config, 3, tokens)
        whole = llama.forward(input_ids)
        monkeypatch.setattr("runtime.chunks.CHUNK_TOKENS", CHUNK)
        in_pieces = llama.forward(input_ids)
        assert llama.last_trace.totals()["rpc_count"] > 3
    bound = FLOAT32_BOUND if llama.stage.dtype == "float32" else BFLOAT16_BOUND
    assert difference(in_pieces, whole) <= bound


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("stage", ["shared-memory", "fused"])
@pytest.mark.parametrize("kind", rope_kinds(16))
def test_pieces_turn_as_the_whole_prompt_with_every_rope_scaling(kind: str, stage: str) -> None:
    config = small_config(
        rope_parameters=rope_kinds(16)[kind], max_position_embeddings=positions_for(kind)
    )
    with temporary_model(config) as checkpoint, serve_in_thread(checkpoint, stage) as llama:
        for tokens in (17, 72, 16, 25):  # beyond what the scaling was made for, and back again
            input_ids = random_ids(config, 1, tokens)
            expected = reference_logits(reference_model(checkpoint), input_ids)
            assert difference(llama.forward(input_ids), expected) <= FLOAT32_BOUND


# Calls and bytes


def measured(llama: SplitLlama) -> Traffic:
    totals = llama.last_trace.totals()
    return Traffic(totals["rpc_count"], totals["bytes_sent"], totals["bytes_received"])


OPENING = Traffic(rpc_count=1)


@pytest.fixture(scope="module", params=STAGES)
def llama(request: pytest.FixtureRequest) -> Iterator[SplitLlama]:
    with (
        temporary_model(small_config()) as checkpoint,
        serve_in_thread(checkpoint, request.param) as served,
    ):
        yield served


@given(chunk=st.integers(1, 20), tokens=st.integers(1, 64), batch=st.integers(1, 3), data=st.data())
@settings(PATCHED, max_examples=15)
def test_measured_traffic_of_pieces_is_the_formula(
    monkeypatch: pytest.MonkeyPatch,
    llama: SplitLlama,
    chunk: int,
    tokens: int,
    batch: int,
    data: st.DataObject,
) -> None:
    monkeypatch.setattr("runtime.chunks.CHUNK_TOKENS", chunk)
    config, stage = llama.config, llama.stage
    llama.forward(random_ids(config, batch, tokens))
    assert measured(llama) == forward_traffic(config, stage, tokens, batch)
    with llama.open_context(batch) as context:
        while context.length < tokens:
            start = context.length
            rows = data.draw(st.integers(1, tokens - start))
            context.append(random_ids(config, batch, rows))
            opened = Traffic() if start else OPENING
            assert measured(llama) == opened + append_traffic(config, stage, rows, batch, start)


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_token_more_resends_no_keys_and_values(stage: str) -> None:
    config, row = small_config(), STAGES[stage]
    short, long = (append_traffic(config, row, 1, start=start) for start in (10, 50))
    scores = config.num_layers * config.num_heads * row.torch_dtype.itemsize
    # The scores over 40 positions more, once each way, and nothing else.
    assert long.bytes_sent - short.bytes_sent == 40 * scores
    assert long.bytes_received - short.bytes_received == 40 * scores
    assert long.rpc_count == short.rpc_count


def test_a_token_more_is_one_call_that_carries_its_id_and_logits() -> None:
    config = small_config()
    for start in (1, 50):
        traffic = append_traffic(config, STAGES["resident"], 1, batch=3, start=start)
        assert traffic == Traffic(1, 3 * 8, 3 * 96 * 2)


# Shared memory


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_pieces_need_no_more_memory_than_a_prompt_of_one(stage: Stage) -> None:
    config = small_config(max_position_embeddings=131_072, num_attention_heads=16)
    most = live_bytes(config, stage, 1024)
    for tokens in (1025, 2048, 8192, 131_072):
        needs = [
            live_bytes(config, stage, rows, keys=start + rows)
            for start, rows in chunks(stage.granularity, tokens)
        ]
        assert max(needs) == most


def arena_bytes(channel: SharedMemoryClient) -> int:
    assert channel._slots is not None
    return channel._slots.arena.size


@pytest.mark.parametrize("stage", ["shared-memory", "fused", "resident"])
def test_the_arena_does_not_grow_with_the_prompt(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    config = small_config(
        max_position_embeddings=1500, num_attention_heads=12, num_key_value_heads=3
    )
    with temporary_model(config) as checkpoint, serve_in_thread(checkpoint, stage) as llama:
        channel = llama._channel
        assert isinstance(channel, SharedMemoryClient)
        monkeypatch.setattr("runtime.chunks.CHUNK_TOKENS", 128)
        sizes = []
        for tokens in (128, 700, 1500):
            llama.forward(random_ids(config, 1, tokens))
            sizes.append(arena_bytes(channel))
        assert len(set(sizes)) == 1
        if stage == "shared-memory":
            monkeypatch.setattr("runtime.chunks.CHUNK_TOKENS", 1024)
            llama.forward(random_ids(config, 1, 700))
            assert arena_bytes(channel) > sizes[0], "a prompt in one piece needs more"
