"""The untrusted hardware: every operation, and how exact the CPU's matrix kernels are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import STAGES, SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.devices import open_device
from runtime.devices.base import Device
from runtime.devices.cpu_linear import (
    LinearKernel,
    NativeLinear,
    SplitLinear,
    choose_linear_kernel,
)
from runtime.devices.scratch import Scratch
from runtime.errors import InputError, ProtocolError, SplitError
from runtime.operations import Call, output_specs
from runtime.tensors import TensorSpec
from tests.runtime.models import DEVICES, random_ids, small_config, write_model

RANDOM = settings(max_examples=30, deadline=None, derandomize=True)
HAS_SPLIT_KERNEL = isinstance(choose_linear_kernel(torch.float32, Scratch()), SplitLinear)

needs_split_kernel = pytest.mark.skipif(
    not HAS_SPLIT_KERNEL, reason="needs a processor with matrix tiles (AMX) and MKL"
)
KERNELS = ("native-float32", "native-bfloat16", pytest.param("split", marks=needs_split_kernel))

# Of the sum of the absolute products: the largest error of any element. A split product leaves out
# 2**-16; a bfloat16 product rounds its result; all of them sum in float32.
LARGEST_ERROR = {"native-float32": 2**-20, "native-bfloat16": 2**-8, "split": 2**-16}


def make_kernel(name: str) -> LinearKernel:
    if name == "split":
        return choose_linear_kernel(torch.float32, Scratch())
    return NativeLinear(dtype_of(name))


def dtype_of(kernel: str) -> torch.dtype:
    return torch.bfloat16 if kernel == "native-bfloat16" else torch.float32


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_product(
    kernel: str,
    actual: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    *added: torch.Tensor,
) -> None:
    """``actual`` is x weight^T and all that is ``added``, as exactly as this kernel promises."""
    exact, size = x.double() @ weight.double().t(), x.double().abs() @ weight.double().abs().t()
    for term in added:
        exact, size = exact + term.double(), size + term.double().abs()
    # Each term that is added rounds once more.
    allowed = size * (LARGEST_ERROR[kernel] * (1 + len(added)))
    assert bool(((actual.double() - exact).abs() <= allowed).all())


@pytest.mark.parametrize("name", KERNELS)
@given(
    rows=st.integers(1, 100),
    inner=st.integers(1, 300),
    columns=st.integers(1, 100),
    biased=st.booleans(),
    residual=st.sampled_from((None, "apart", "in place")),
    seed=st.integers(0, 1000),
)
@RANDOM
def test_linear_is_its_formula(
    name: str,
    rows: int,
    inner: int,
    columns: int,
    biased: bool,
    residual: str | None,
    seed: int,
) -> None:
    kernel, dtype = make_kernel(name), dtype_of(name)
    x, weight = normal(rows, inner, seed=seed, dtype=dtype), normal(columns, inner, seed=seed + 1)
    weight = weight.to(dtype)
    bias = normal(columns, seed=seed + 2, dtype=dtype) if biased else None
    before = normal(rows, columns, seed=seed + 3, dtype=dtype)
    out = before.clone() if residual == "in place" else torch.full_like(before, torch.nan)
    given_residual = {None: None, "apart": before.clone(), "in place": out}[residual]

    x_before, weight_before = x.clone(), weight.clone()
    kernel.apply(kernel.prepare(x), kernel.pack(weight, bias), out, given_residual)

    added = ([] if bias is None else [bias]) + ([] if residual is None else [before])
    assert_product(name, out, x, weight, *added)
    assert torch.equal(x, x_before)
    assert torch.equal(weight, weight_before)
    if residual == "apart":
        assert given_residual is not None
        assert torch.equal(given_residual, before)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 500])
def test_linear_of_few_and_many_rows(name: str, rows: int) -> None:
    kernel, dtype = make_kernel(name), dtype_of(name)
    x, weight = normal(rows, 576, seed=0, dtype=dtype), normal(192, 576, seed=1, dtype=dtype)
    out = torch.full((rows, 192), torch.nan, dtype=dtype)
    kernel.apply(kernel.prepare(x), kernel.pack(weight, None), out)
    assert_product(name, out, x, weight)


@pytest.mark.parametrize("name", KERNELS)
def test_an_input_that_layers_share_is_prepared_once(name: str) -> None:
    kernel, dtype = make_kernel(name), dtype_of(name)
    x = normal(64, 48, seed=0, dtype=dtype)
    weights = [normal(columns, 48, seed=columns, dtype=dtype) for columns in (64, 32, 80)]
    packed = [kernel.pack(weight, None) for weight in weights]
    prepared = kernel.prepare(x)
    for weight, linear in zip(weights, packed, strict=True):
        out = torch.full((64, len(weight)), torch.nan, dtype=dtype)
        kernel.apply(prepared, linear, out)
        assert_product(name, out, x, weight)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e15])
@needs_split_kernel
def test_split_products_are_as_exact_at_any_size(scale: float) -> None:
    kernel = make_kernel("split")
    x, weight = normal(64, 100, seed=0) * scale, normal(50, 100, seed=1)
    out = torch.full((64, 50), torch.nan)
    kernel.apply(kernel.prepare(x), kernel.pack(weight, None), out)
    assert_product("split", out, x, weight)


@needs_split_kernel
def test_weights_that_were_bfloat16_need_one_product_less() -> None:
    kernel = make_kernel("split")
    weight = normal(50, 100, seed=1)
    exact_in_bfloat16 = weight.bfloat16().float()
    assert len(kernel.pack(weight, None).packed) == 2
    packed = kernel.pack(exact_in_bfloat16, None)
    assert len(packed.packed) == 1
    x, out = normal(64, 100, seed=0), torch.full((64, 50), torch.nan)
    kernel.apply(kernel.prepare(x), packed, out)
    assert_product("split", out, x, exact_in_bfloat16)


@needs_split_kernel
def test_split_products_of_few_rows_are_float32_itself() -> None:
    kernel = make_kernel("split")
    x, weight = normal(8, 300, seed=0), normal(50, 300, seed=1)
    out = torch.empty(8, 50)
    kernel.apply(kernel.prepare(x), kernel.pack(weight, None), out)
    assert_product("native-float32", out, x, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chosen_kernel_has_a_name_for_people(dtype: torch.dtype) -> None:
    kernel = choose_linear_kernel(dtype, Scratch())
    assert str(dtype).removeprefix("torch.") in kernel.name
    assert dtype == torch.float32 or isinstance(kernel, NativeLinear)


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
    assert_product("split", out.flatten(0, 1), x.flatten(0, 1), weight, bias)


@pytest.mark.parametrize("transpose_b", [False, True])
def test_matmul_multiplies_each_pair(
    by_operation: Device, checkpoint: Checkpoint, transpose_b: bool
) -> None:
    a, b = normal(4, 100, 16, seed=0), normal(4, 16, 50, seed=1)
    given_b = b.transpose(1, 2).contiguous() if transpose_b else b
    out = run(by_operation, checkpoint, Call("matmul", 0, transpose_b=transpose_b), a, given_b)
    for index in range(4):
        assert_product("native-float32", out[index], a[index], b[index].t())


def test_lm_head_is_its_formula(by_operation: Device, checkpoint: Checkpoint) -> None:
    x = normal(3, 48, seed=0)
    out = run(by_operation, checkpoint, Call("lm_head"), x)
    assert_product("native-float32", out, x, checkpoint.tensor("lm_head.weight"))


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
