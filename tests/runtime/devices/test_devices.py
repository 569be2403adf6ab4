"""The untrusted hardware: every operation, and how exact the CPU's kernels are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import STAGES, SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.devices import cpu, open_device
from runtime.devices.amx import AmxKernels, load_amx_kernels
from runtime.devices.base import Device
from runtime.devices.block_attention import BlockAttention
from runtime.devices.cpu import choose_kernels, has_bfloat16_products
from runtime.devices.layer_kernels import Activation, LayerKernels, TorchKernels
from runtime.devices.onednn import OneDnnKernels, has_onednn
from runtime.devices.scratch import Scratch
from runtime.errors import InputError, ProtocolError, SplitError
from runtime.operations import Call, output_specs
from runtime.stages import Granularity
from runtime.tensors import TensorSpec
from tests.runtime.models import DEVICES, random_ids, small_config, write_model

RANDOM = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Tiles are 32 rows by 32 columns over 32 inner elements, and kernels work in blocks of those.
row_counts = st.one_of(st.integers(1, 100), st.sampled_from((255, 256, 257, 513)))
inner_sizes = st.one_of(st.integers(1, 300), st.sampled_from((1023, 1024, 1025, 1056, 2080)))
column_counts = st.integers(1, 100)
seeds = st.integers(0, 1000)

FLOAT32_PRODUCT = 2**-20  # summed in float32
FLOAT32_SUM = 2**-17  # of hundreds of terms
# Each half is rounded to 2**-8 of itself: left out are the product of the two low halves, and what
# either of them lost.
SPLIT_PRODUCT = 3 * 2**-16
BFLOAT16_RESULT = 2**-8  # rounded once, give or take


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@dataclass(frozen=True)
class Kernels:
    """Kernels under test, and how far their results may be off: a share of what is summed."""

    name: str
    dtype: torch.dtype
    error: float
    make: Callable[[], LayerKernels]

    def normal(self, *shape: int, seed: int) -> torch.Tensor:
        return normal(*shape, seed=seed, dtype=self.dtype)


@pytest.fixture(
    scope="module",
    params=[
        (kernels, dtype)
        for kernels in ("torch", "onednn", "amx")
        for dtype in (torch.float32, torch.bfloat16)
    ],
    ids=lambda drawn: f"{drawn[0]}-{str(drawn[1]).removeprefix('torch.')}",
)
def tested(request: pytest.FixtureRequest) -> Kernels:
    kernels, dtype = request.param
    error = FLOAT32_PRODUCT if dtype == torch.float32 else BFLOAT16_RESULT
    if kernels == "torch":
        return Kernels(kernels, dtype, error, lambda: TorchKernels(dtype, Scratch()))
    if kernels == "onednn":
        if not has_onednn():
            pytest.skip("needs a torch that is built with oneDNN")
        if dtype == torch.bfloat16 and not has_bfloat16_products():
            pytest.skip("needs a processor that multiplies bfloat16")
        return Kernels(kernels, dtype, error, lambda: OneDnnKernels(dtype, Scratch()))
    library = load_amx_kernels()
    if library is None:
        pytest.skip("needs a processor with matrix tiles (AMX) and a C compiler")
    if dtype == torch.float32:
        error = SPLIT_PRODUCT
    return Kernels(kernels, dtype, error, lambda: AmxKernels(dtype, Scratch(), library))


def assert_product(
    actual: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    *added: torch.Tensor,
    error: float,
) -> None:
    """``actual`` is x weight^T and all that is ``added``, within ``error`` of the terms' sizes."""
    exact, size = x.double() @ weight.double().t(), x.double().abs() @ weight.double().abs().t()
    for term in added:
        exact, size = exact + term.double(), size + term.double().abs()
    # Each term that is added may round once more.
    allowed = size * (error * (1 + len(added)))
    assert bool(((actual.double() - exact).abs() <= allowed).all())


def values_of(kernels: LayerKernels, activation: Activation, like: torch.Tensor) -> torch.Tensor:
    """An activation's values, in the shape and type of ``like``: multiplied by one."""
    identity = torch.eye(like.shape[1], dtype=like.dtype)
    out = torch.full_like(like, torch.nan)
    kernels.linear(activation, kernels.pack(identity, None), out)
    return out


def assert_values(actual: torch.Tensor, exact: torch.Tensor, error: float) -> None:
    """Each value is within ``error`` of itself; tiny ones, of a thousandth of the largest."""
    size = exact.abs().clamp(min=float(exact.abs().max()) * 1e-3)
    assert bool(((actual.double() - exact).abs() <= error * size).all())


# The CPU's kernels


@given(
    rows=row_counts,
    inner=inner_sizes,
    columns=column_counts,
    biased=st.booleans(),
    residual=st.sampled_from((None, "apart", "in place")),
    seed=seeds,
)
@RANDOM
def test_linear_is_its_formula(
    tested: Kernels,
    rows: int,
    inner: int,
    columns: int,
    biased: bool,
    residual: str | None,
    seed: int,
) -> None:
    kernels = tested.make()
    x, weight = tested.normal(rows, inner, seed=seed), tested.normal(columns, inner, seed=seed + 1)
    bias = tested.normal(columns, seed=seed + 2) if biased else None
    before = tested.normal(rows, columns, seed=seed + 3)
    out = before.clone() if residual == "in place" else torch.full_like(before, torch.nan)
    given_residual = {None: None, "apart": before.clone(), "in place": out}[residual]

    x_before, weight_before = x.clone(), weight.clone()
    kernels.linear(kernels.activation(x), kernels.pack(weight, bias), out, given_residual)

    added = ([] if bias is None else [bias]) + ([] if residual is None else [before])
    assert_product(out, x, weight, *added, error=tested.error)
    assert torch.equal(x, x_before)
    assert torch.equal(weight, weight_before)
    if residual == "apart":
        assert given_residual is not None
        assert torch.equal(given_residual, before)


def test_linear_writes_nothing_beyond_its_result(tested: Kernels) -> None:
    kernels = tested.make()
    x, weight = tested.normal(33, 40, seed=0), tested.normal(50, 40, seed=1)
    room = torch.full((100, 50), 7.0, dtype=tested.dtype)
    kernels.linear(kernels.activation(x), kernels.pack(weight, None), room[30:63])
    assert_product(room[30:63], x, weight, error=tested.error)
    assert bool((room[:30] == 7).all())
    assert bool((room[63:] == 7).all())


def test_linear_makes_its_own_place_where_none_is_given(tested: Kernels) -> None:
    kernels = tested.make()
    x, weight = tested.normal(33, 40, seed=0), tested.normal(50, 40, seed=1)
    bias = tested.normal(50, seed=2)
    made = kernels.linear(kernels.activation(x), kernels.pack(weight, bias))
    assert made.dtype == kernels.dtype
    assert_product(made, x, weight, bias, error=tested.error)


def test_layers_may_share_an_activation(tested: Kernels) -> None:
    kernels = tested.make()
    x = tested.normal(64, 48, seed=0)
    weights = [tested.normal(columns, 48, seed=columns) for columns in (64, 32, 80)]
    packed = [kernels.pack(weight, None) for weight in weights]
    shared = kernels.activation(x)
    for weight, linear in zip(weights, packed, strict=True):
        out = torch.full((64, len(weight)), torch.nan, dtype=tested.dtype)
        kernels.linear(shared, linear, out)
        assert_product(out, x, weight, error=tested.error)


def test_what_was_in_memory_before_does_not_matter(tested: Kernels) -> None:
    kernels = tested.make()
    weight = kernels.pack(tested.normal(40, 50, seed=1), None)
    x = tested.normal(33, 50, seed=0)
    fresh, used = (torch.full((33, 40), torch.nan, dtype=tested.dtype) for _ in range(2))
    kernels.linear(kernels.activation(x), weight, fresh)
    nans = torch.full((200, 300), torch.nan, dtype=tested.dtype)
    kernels.activation(nans)
    kernels.normed(nans, nans[0], 1e-5)
    kernels.gated(nans)
    kernels.linear(kernels.activation(x), weight, used)
    assert torch.equal(fresh, used)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e15])
def test_products_are_as_exact_at_any_size(tested: Kernels, scale: float) -> None:
    kernels = tested.make()
    x, weight = tested.normal(64, 100, seed=0) * scale, tested.normal(50, 100, seed=1)
    out = torch.full((64, 50), torch.nan, dtype=tested.dtype)
    kernels.linear(kernels.activation(x), kernels.pack(weight, None), out)
    assert_product(out, x, weight, error=tested.error)


def assert_causal_attention(
    attend: Callable[..., torch.Tensor], dtype: torch.dtype, shape: tuple[int, int, int, int, int]
) -> None:
    """What ``attend`` gives is softmax(Q K^T / sqrt(size)) V, each query over the keys up to its own."""
    batch, heads, kv_heads, tokens, size = shape
    # As in a layer: keys follow the queries, values lie token by token.
    rotated = normal(batch, heads + kv_heads, tokens, size, seed=0, dtype=dtype)
    queries, keys = rotated[:, :heads], rotated[:, heads:]
    values = normal(batch, tokens, kv_heads, size, seed=1, dtype=dtype).transpose(1, 2)
    attended = attend(queries, keys, values)
    assert attended.dtype == dtype
    keys, values = (
        tensor.double().repeat_interleave(heads // kv_heads, dim=1) for tensor in (keys, values)
    )
    scores = queries.double() @ keys.transpose(2, 3) / size**0.5
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    weights = torch.softmax(scores.masked_fill(later, -torch.inf), dim=-1)
    # A score's relative error is its weight's by as much as the score is large.
    relative = torch.finfo(dtype).eps * (2 + float(scores.abs().max())) + FLOAT32_SUM
    allowed = relative * (weights @ values.abs())
    assert bool(((attended.double() - weights @ values).abs() <= allowed).all())


ATTENTIONS = [
    (1, 3, 3, 1, 8),
    (2, 4, 2, 255, 16),
    (1, 4, 1, 256, 24),
    (2, 6, 2, 257, 16),
    (1, 9, 3, 700, 64),
]


@pytest.mark.parametrize("shape", ATTENTIONS)
def test_attention_is_causal_and_each_head_has_its_keys(
    tested: Kernels, shape: tuple[int, int, int, int, int]
) -> None:
    assert_causal_attention(tested.make().attended, tested.dtype, shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ATTENTIONS)
def test_attention_in_blocks_is_exact_on_any_processor(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    attention = BlockAttention(dtype, Scratch())
    longer = normal(2, 6, 800, 64, seed=2, dtype=dtype) * torch.inf
    attention(longer, longer, longer)  # what is left in memory must not count
    assert_causal_attention(attention, dtype, shape)


def test_weights_that_were_bfloat16_need_one_product_less(tested: Kernels) -> None:
    if tested.name != "amx" or tested.dtype != torch.float32:
        pytest.skip("only kernels that split float32 make several products")
    kernels = tested.make()
    weight = tested.normal(50, 100, seed=1)
    exact_in_bfloat16 = weight.bfloat16().float()
    assert len(kernels.pack(weight, None).parts) == 2
    packed = kernels.pack(exact_in_bfloat16, None)
    assert len(packed.parts) == 1
    x, out = tested.normal(64, 100, seed=0), torch.full((64, 50), torch.nan)
    kernels.linear(kernels.activation(x), packed, out)
    assert_product(out, x, exact_in_bfloat16, error=tested.error)


@given(rows=st.integers(1, 100), features=st.integers(1, 200), seed=seeds)
@RANDOM
def test_an_activation_holds_its_rows(tested: Kernels, rows: int, features: int, seed: int) -> None:
    kernels = tested.make()
    x = tested.normal(rows, features, seed=seed)
    assert_values(values_of(kernels, kernels.activation(x), x), x.double(), tested.error)


@given(
    rows=st.integers(1, 100),
    features=st.integers(1, 300),
    scale=st.sampled_from((1e-3, 1.0, 1e3)),
    eps=st.sampled_from((1e-6, 1e-2)),
    seed=seeds,
)
@RANDOM
def test_normed_is_its_formula(
    tested: Kernels, rows: int, features: int, scale: float, eps: float, seed: int
) -> None:
    kernels = tested.make()
    x = tested.normal(rows, features, seed=seed) * scale
    weight = tested.normal(features, seed=seed + 1)
    before = x.clone()
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    actual = values_of(kernels, kernels.normed(x, weight, eps), x)
    assert_values(actual, exact, 3 * tested.error)
    assert torch.equal(x, before)


@given(
    rows=st.integers(1, 100),
    features=st.integers(1, 200),
    scale=st.sampled_from((1e-3, 1.0, 30.0)),
    seed=seeds,
)
@RANDOM
def test_gated_is_its_formula(
    tested: Kernels, rows: int, features: int, scale: float, seed: int
) -> None:
    kernels = tested.make()
    x = tested.normal(rows, 2 * features, seed=seed) * scale
    before = x.clone()
    gate, up = x.double().chunk(2, dim=-1)
    exact = gate * torch.sigmoid(gate) * up
    actual = values_of(kernels, kernels.gated(x), x[:, :features].contiguous())
    assert_values(actual, exact, 3 * tested.error)
    assert torch.equal(x, before)


def test_gated_of_extreme_gates(tested: Kernels) -> None:
    kernels = tested.make()
    gate = torch.tensor([[-1e10, -1e4, -100.0, -88.5, 0.0, 88.5, 100.0, 1e4, 1e10]]).to(
        tested.dtype
    )
    out = values_of(kernels, kernels.gated(torch.cat((gate, torch.ones_like(gate)), -1)), gate)
    expected = gate.clamp(min=0).double()
    assert bool(((out.double() - expected).abs() <= tested.error * expected + 1e-30).all())


@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 40),
    heads=st.integers(1, 4),
    others=st.integers(0, 3),
    half=st.integers(1, 40),
    seed=seeds,
)
@RANDOM
def test_rotated_turns_the_first_heads(
    tested: Kernels, batch: int, tokens: int, heads: int, others: int, half: int, seed: int
) -> None:
    kernels = tested.make()
    x = tested.normal(batch, tokens, heads + others, 2 * half, seed=seed)
    angles = torch.arange(tokens)[:, None] * 100.0 ** -(torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()
    left, right = x[:, :, :heads].double().chunk(2, dim=-1)
    c, s = cos[:, None].double(), sin[:, None].double()
    exact = torch.cat((left * c - right * s, right * c + left * s), dim=-1)
    untouched = x[:, :, heads:].clone()
    rotated = kernels.rotated(x, heads, cos, sin).transpose(1, 2)
    assert torch.equal(x[:, :, heads:], untouched)
    # Rounded are the tables, each product, and the sum.
    allowed = 3 * tested.error * float(exact.abs().max())
    assert float((rotated.double() - exact).abs().max()) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chosen_kernels_have_a_name_for_people(dtype: torch.dtype) -> None:
    kernels = choose_kernels(dtype, Scratch())
    assert str(kernels.dtype).removeprefix("torch.") in kernels.name


def test_scratch_memory_is_used_again() -> None:
    scratch = Scratch()
    first = scratch.empty("a", (4, 8), torch.float32)
    assert first.shape == (4, 8)
    assert first.is_contiguous()
    assert scratch.empty("a", (2, 3), torch.float32).data_ptr() == first.data_ptr()
    larger = scratch.empty("a", (100, 8), torch.float32)
    assert larger.shape == (100, 8)
    assert scratch.empty("a", (4, 8), torch.float32).data_ptr() == larger.data_ptr()
    others = [
        scratch.empty("b", (4, 8), torch.float32),
        scratch.empty("a", (4, 8), torch.bfloat16),
    ]
    assert len({larger.data_ptr(), *(other.data_ptr() for other in others)}) == 3
    assert others[1].dtype == torch.bfloat16


# Devices


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    config = small_config(attention_bias=True, mlp_bias=True)
    return write_model(tmp_path_factory.mktemp("models") / "small", config)


@pytest.fixture(scope="module", params=DEVICES)
def device_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def by_operation(checkpoint: Checkpoint, device_name: str) -> Iterator[Device]:
    with torch.no_grad():
        yield open_device(device_name, checkpoint, torch.float32, "operation")


def run(device: Device, checkpoint: Checkpoint, call: Call, *inputs: torch.Tensor) -> torch.Tensor:
    """The only result of ``call``, whose inputs must stay as they are."""
    before = [tensor.clone() for tensor in inputs]
    specs = output_specs(
        checkpoint.config, device.dtype, call, [TensorSpec.of(tensor) for tensor in inputs]
    )
    outputs = [torch.full(spec.shape, torch.nan, dtype=spec.dtype) for spec in specs]
    device.run(call, inputs, outputs)
    assert all(torch.equal(*pair) for pair in zip(inputs, before, strict=True))
    assert not any(bool(output.isnan().any()) for output in outputs)
    return torch.cat(outputs, dim=-1)


def test_embedding_looks_up_rows(by_operation: Device, checkpoint: Checkpoint) -> None:
    input_ids = random_ids(checkpoint.config, 2, 30)
    table = checkpoint.tensor("model.embed_tokens.weight")
    assert torch.equal(
        run(by_operation, checkpoint, Call("embedding"), input_ids), table[input_ids]
    )


@pytest.mark.parametrize("bad", [-1, 96, 2**40, -(2**63)])
def test_embedding_refuses_ids_out_of_the_vocabulary(
    by_operation: Device, checkpoint: Checkpoint, bad: int
) -> None:
    for input_ids in (torch.tensor([[bad, 1]]), torch.tensor([[1, 2], [3, bad]])):
        with pytest.raises(ProtocolError) as caught:
            run(by_operation, checkpoint, Call("embedding"), input_ids)
        assert caught.value.field.startswith("inputs[0]")
    run(by_operation, checkpoint, Call("embedding"), torch.tensor([[0, 95]]))


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    "modules", [("q_proj", "k_proj", "v_proj"), ("v_proj",), ("o_proj",), ("up_proj", "gate_proj")]
)
def test_batch_linear_applies_modules_in_the_order_asked(
    by_operation: Device,
    checkpoint: Checkpoint,
    modules: tuple[str, ...],
    layer: int,
    tokens: int,
) -> None:
    part = "mlp" if modules[0] in ("up_proj", "gate_proj") else "self_attn"
    prefixes = [f"model.layers.{layer}.{part}.{module}" for module in modules]
    weight = torch.cat([checkpoint.tensor(f"{prefix}.weight") for prefix in prefixes])
    bias = torch.cat([checkpoint.tensor(f"{prefix}.bias") for prefix in prefixes])
    x = normal(2, tokens, weight.shape[1], seed=0)
    out = run(by_operation, checkpoint, Call("batch_linear", layer, modules), x)
    assert_product(out.flatten(0, 1), x.flatten(0, 1), weight, bias, error=SPLIT_PRODUCT)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(
    ("count", "rows", "inner", "columns"), [(4, 100, 16, 50), (2, 1100, 64, 70)], ids=str
)
def test_matmul_multiplies_each_pair(
    by_operation: Device, count: int, rows: int, inner: int, columns: int, transpose_b: bool
) -> None:
    a, b = normal(count, rows, inner, seed=0), normal(count, inner, columns, seed=1)
    given_b = b.transpose(1, 2).contiguous() if transpose_b else b
    out = torch.full((count, rows, columns), torch.nan)
    by_operation.run(Call("matmul", 0, transpose_b=transpose_b), (a, given_b), (out,))
    for index in range(count):
        assert_product(out[index], a[index], b[index].t(), error=FLOAT32_PRODUCT)


def test_lm_head_is_its_formula(by_operation: Device, checkpoint: Checkpoint) -> None:
    x = normal(3, 48, seed=0)
    out = run(by_operation, checkpoint, Call("lm_head"), x)
    assert_product(out, x, checkpoint.tensor("lm_head.weight"), error=FLOAT32_PRODUCT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_does_not_depend_on_what_ran_before(
    checkpoint: Checkpoint, device_name: str, dtype: torch.dtype
) -> None:
    with torch.no_grad():
        device = open_device(device_name, checkpoint, dtype, "layer")
        calls = [
            (Call("fused_layer", layer), normal(batch, tokens, 48, seed=tokens, dtype=dtype))
            for layer in range(2)
            for batch, tokens in ((1, 40), (3, 64), (1, 1), (2, 33))
        ]
        first = [run(device, checkpoint, call, x) for call, x in calls]
        again = [run(device, checkpoint, call, x) for call, x in reversed(calls)]
    for expected, actual in zip(first, reversed(again), strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("granularity", ["operation", "layer"])
def test_bfloat16_needs_no_processor_that_multiplies_it(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, granularity: Granularity
) -> None:
    monkeypatch.setattr(cpu, "load_amx_kernels", lambda: None)
    monkeypatch.setattr(cpu, "has_bfloat16_products", lambda: False)
    x = normal(2, 40, 48, seed=0, dtype=torch.bfloat16)
    call = Call("fused_layer", 0)
    if granularity == "operation":
        call = Call("batch_linear", 0, ("q_proj", "v_proj"))
    with torch.no_grad():
        exact = open_device("cpu", checkpoint, torch.float32, granularity)
        device = open_device("cpu", checkpoint, torch.bfloat16, granularity)
        expected = run(exact, checkpoint, call, x.float())
        actual = run(device, checkpoint, call, x)
    assert device.kernels.startswith("bfloat16 wire and weights, float32 products")
    assert actual.dtype == torch.bfloat16
    # Rounded are the weights and the result, and nothing between.
    assert float((actual - expected).abs().max()) <= 2 * 2**-8 * float(expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_says_what_it_is(
    checkpoint: Checkpoint, device_name: str, dtype: torch.dtype
) -> None:
    device = open_device(device_name, checkpoint, dtype, "layer")
    assert device.dtype == dtype
    assert device.name
    assert device.kernels


@pytest.mark.parametrize("name", ["", "tpu", "CPU", "cuda:0"])
def test_an_unknown_device_is_refused_with_the_known_ones(
    checkpoint: Checkpoint, name: str
) -> None:
    for attempt in (
        lambda: open_device(name, checkpoint, torch.float32, "layer"),
        lambda: SplitLlama.launch(checkpoint, "fused", device=name),
    ):
        with pytest.raises(InputError, match=r"device: .* cpu, cuda") as caught:
            attempt()
        assert repr(name) in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an NVIDIA GPU")
@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_gpu_is_said_so(checkpoint: Checkpoint, stage: str) -> None:
    row = STAGES[stage]
    with pytest.raises(InputError, match="device: 'cuda' needs an NVIDIA GPU"):
        open_device("cuda", checkpoint, row.torch_dtype, row.granularity)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an NVIDIA GPU")
def test_a_missing_gpu_is_said_so_by_the_worker(checkpoint: Checkpoint) -> None:
    with pytest.raises(SplitError, match="device: 'cuda' needs an NVIDIA GPU"):
        SplitLlama.launch(checkpoint, "fused", device="cuda")
