"""Calls and bytes: the closed formula, and the measured traffic that must equal it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import STAGES, SplitLlama
from runtime.checkpoints import ModelConfig
from runtime.rope import max_length
from runtime.stages import Stage
from runtime.traffic import (
    Traffic,
    end_calls,
    forward_traffic,
    layer_calls,
    layer_traffic,
    live_bytes,
)
from tests.runtime.models import (
    model_configs,
    random_ids,
    serve_in_thread,
    small_config,
    temporary_model,
    text_ids,
)

# The model of the analysis, and its prompt.
LLAMA_1B = ModelConfig.from_hf(
    {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 131_072,
    }
)
TOKENS = 1024

RANDOM = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def calls_of_a_layer(config: ModelConfig, tokens: int, batch: int) -> list[tuple[str, int, int]]:
    """Operation, elements sent and elements received, from the description of the stages."""
    rows = batch * tokens
    hidden, inner = rows * config.hidden_size, rows * config.intermediate_size
    query = rows * config.num_heads * config.head_dim
    key = rows * config.num_kv_heads * config.head_dim
    scores = rows * tokens * config.num_heads
    return [
        ("batch_linear", hidden, query + key + key),
        ("matmul", query + key, scores),
        ("matmul", scores + key, query),
        ("batch_linear", query, hidden),
        ("batch_linear", hidden, inner + inner),
        ("batch_linear", inner, hidden),
    ]


def measured(llama: SplitLlama) -> Traffic:
    totals = llama.last_trace.totals()
    return Traffic(totals["rpc_count"], totals["bytes_sent"], totals["bytes_received"])


# The formula


def test_bytes_of_each_operation_are_those_of_the_analysis() -> None:
    # q,k,v; Q K^T; attention weights V; o; gate,up; down
    per_call = [
        4 * (sent + received) for _, sent, received in calls_of_a_layer(LLAMA_1B, TOKENS, batch=1)
    ]
    assert per_call == [
        33_554_432,
        150_994_944,
        150_994_944,
        16_777_216,
        75_497_472,
        41_943_040,
    ]


@pytest.mark.parametrize(
    ("stage", "bytes_per_layer"),
    [
        ("baseline", 469_762_048),
        ("shared-memory", 469_762_048),
        ("fused", 16_777_216),
        ("bf16", 8_388_608),
        ("resident", 0),
    ],
)
def test_bytes_of_a_layer_are_those_of_the_analysis(stage: str, bytes_per_layer: int) -> None:
    layer = layer_traffic(LLAMA_1B, STAGES[stage], TOKENS)
    assert layer.total_bytes == bytes_per_layer
    embedding_and_head = (
        TOKENS * 8  # token ids
        + TOKENS * 2048 * STAGES[stage].torch_dtype.itemsize  # hidden states
        + (2048 + 128_256) * STAGES[stage].torch_dtype.itemsize  # last position, logits
    )
    forward = forward_traffic(LLAMA_1B, STAGES[stage], TOKENS)
    # All layers at once: each position's hidden state goes, the last one's comes.
    all_layers = (TOKENS + 1) * 2048 * 2 if stage == "resident" else 0
    assert forward.total_bytes == 16 * bytes_per_layer + all_layers + embedding_and_head


def test_layers_of_the_analysis_take_7_5_gigabytes() -> None:
    assert (layer_traffic(LLAMA_1B, STAGES["baseline"], TOKENS) * 16).total_bytes == 7_516_192_768


@pytest.mark.parametrize(
    ("stage", "calls"),
    [("baseline", 98), ("shared-memory", 98), ("fused", 18), ("bf16", 18), ("resident", 3)],
)
def test_calls_of_the_analysis(stage: str, calls: int) -> None:
    assert forward_traffic(LLAMA_1B, STAGES[stage], TOKENS).rpc_count == calls


@pytest.mark.parametrize("stage", STAGES)
def test_prompts_of_a_batch_cost_the_same(stage: str) -> None:
    one, three = (forward_traffic(LLAMA_1B, STAGES[stage], 100, batch) for batch in (1, 3))
    assert three == Traffic(one.rpc_count, 3 * one.bytes_sent, 3 * one.bytes_received)


# The measurement


@pytest.fixture(scope="module", params=STAGES)
def llama(request: pytest.FixtureRequest) -> Iterator[SplitLlama]:
    with (
        temporary_model(small_config()) as checkpoint,
        serve_in_thread(checkpoint, request.param) as served,
    ):
        yield served


@pytest.mark.parametrize("stage", STAGES)
@given(data=st.data())
@RANDOM
def test_measured_traffic_is_the_formula_for_any_llama(stage: str, data: st.DataObject) -> None:
    config = data.draw(model_configs())
    batch = data.draw(st.integers(1, 3))
    tokens = data.draw(st.integers(1, max_length(config)))
    with temporary_model(config) as checkpoint, serve_in_thread(checkpoint, stage) as served:
        served.forward(random_ids(config, batch, tokens))
        assert measured(served) == forward_traffic(config, STAGES[stage], tokens, batch)
    layers = config.num_layers
    of_layers = {"baseline": 6 * layers, "shared-memory": 6 * layers, "resident": 1}
    assert measured(served).rpc_count == 2 + of_layers.get(stage, layers)


@pytest.mark.parametrize("stage", STAGES)
def test_measured_traffic_of_tiny_on_text(stage: str) -> None:
    fields = {  # those of the preset
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 2048,
    }
    config = small_config(**fields)
    with temporary_model(config) as checkpoint, serve_in_thread(checkpoint, stage) as served:
        for tokens in (1, 333):
            served.forward(text_ids(checkpoint, tokens))
            assert measured(served) == forward_traffic(config, STAGES[stage], tokens)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 64), (3, 17)])
def test_each_call_carries_what_the_analysis_says(
    llama: SplitLlama, batch: int, tokens: int
) -> None:
    config, size = llama.config, llama.stage.torch_dtype.itemsize
    llama.forward(random_ids(config, batch, tokens))
    embedding, *layers, lm_head = [
        (rpc.operation, rpc.bytes_sent, rpc.bytes_received) for rpc in llama.last_trace.rpcs
    ]
    rows, hidden = batch * tokens, batch * tokens * config.hidden_size
    assert embedding == ("embedding", rows * 8, hidden * size)
    assert lm_head == ("lm_head", batch * config.hidden_size * size, batch * 96 * size)
    if llama.stage.granularity == "model":
        expected = [("all_layers", hidden, batch * config.hidden_size)]
    elif llama.stage.granularity == "layer":
        expected = [("fused_layer", hidden, hidden)] * config.num_layers
    else:
        expected = calls_of_a_layer(config, tokens, batch) * config.num_layers
    assert layers == [(name, sent * size, received * size) for name, sent, received in expected]


@given(shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 64)), max_size=12))
@settings(
    RANDOM,
    max_examples=10,
    suppress_health_check=[*RANDOM.suppress_health_check, HealthCheck.function_scoped_fixture],
)
def test_shapes_may_come_in_any_order(llama: SplitLlama, shapes: list[tuple[int, int]]) -> None:
    for batch, tokens in shapes:
        llama.forward(random_ids(llama.config, batch, tokens))
        assert measured(llama) == forward_traffic(llama.config, llama.stage, tokens, batch)


# Shared memory

# Batch, tokens, and fields that make one tensor of tens of megabytes outweigh all others.
WIDE: dict[str, tuple[int, int, dict[str, int]]] = {
    "attention weights": (1, 700, {"num_attention_heads": 12, "num_key_value_heads": 3}),
    "queries, keys and values": (3, 160, {"num_key_value_heads": 4, "head_dim": 1024}),
    "the MLP, beside wide heads": (
        24,
        20,
        {"num_key_value_heads": 4, "head_dim": 1024, "intermediate_size": 8_000},
    ),
    "hidden states": (1, 700, {"hidden_size": 6000}),
    "the MLP": (2, 250, {"intermediate_size": 12_000}),
    "logits": (100, 1, {"vocab_size": 60_000}),
}


@pytest.mark.parametrize("stage", ["shared-memory", "fused", "bf16", "resident"])
@pytest.mark.parametrize("what", WIDE)
def test_live_memory_suffices_whatever_is_large(stage: str, what: str) -> None:
    batch, tokens, fields = WIDE[what]
    config = small_config(max_position_embeddings=1024, **fields)
    with temporary_model(config) as checkpoint, serve_in_thread(checkpoint, stage) as served:
        served.forward(random_ids(config, batch, tokens))
        assert measured(served) == forward_traffic(config, STAGES[stage], tokens, batch)


@pytest.mark.parametrize("stage", STAGES)
def test_live_memory_is_bounded_by_the_largest_call(stage: str) -> None:
    # Enough for the largest call, and far less than all that crosses.
    row = STAGES[stage]
    need = live_bytes(LLAMA_1B, row, TOKENS)
    calls = (*layer_calls(LLAMA_1B, row, TOKENS), *end_calls(LLAMA_1B, row, TOKENS))
    largest = max(call.bytes_sent + call.bytes_received for call in calls)
    if row.granularity == "operation":
        assert largest == 150_994_944
    assert largest <= need <= 4 * largest


@pytest.mark.parametrize("stage", STAGES.values())
def test_calls_add_up_to_the_forward(stage: Stage) -> None:
    config = small_config()
    calls = (*end_calls(config, stage, 9), *layer_calls(config, stage, 9) * config.num_layers)
    traffic = forward_traffic(config, stage, 9)
    assert len(calls) == traffic.rpc_count
    per_layer = {"operation": (4, 3, 3, 2, 3, 2), "layer": (2,), "model": ()}[stage.granularity]
    ends = (2, 2, 2) if stage.granularity == "model" else (2, 2)
    assert tuple(call.tensors for call in calls) == (*ends, *per_layer * config.num_layers)
    assert sum(call.bytes_sent for call in calls) == traffic.bytes_sent
    assert sum(call.bytes_received for call in calls) == traffic.bytes_received
