"""One position more: what the compiled kernels compute, against torch and against the path for prompts."""

from __future__ import annotations

import os
import shutil
import subprocess
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.devices import cpu, decode, open_device
from runtime.devices.cpu import CpuDevice
from runtime.devices.decode import MOST_ROWS, DecodeKernels
from runtime.devices.scratch import Scratch
from runtime.devices.weights import stacked_linear
from runtime.operations import Call
from runtime.stages import Granularity
from tests.runtime.devices.comparing import (
    BFLOAT16_RESULT,
    FLOAT32_PRODUCT,
    RANDOM,
    assert_product,
    normal,
    run,
)
from tests.runtime.models import BFLOAT16_BOUND, FLOAT32_BOUND, small_config, temporary_model

CAPACITY = 12
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module")
def compiler() -> None:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")


@pytest.fixture(autouse=True, scope="module")
def _as_a_worker(one_thread: None) -> Iterator[None]:
    with torch.no_grad():
        yield


def opened(
    checkpoint: Checkpoint, dtype: torch.dtype, granularity: Granularity, compiles: bool
) -> CpuDevice:
    with pytest.MonkeyPatch.context() as patch:
        if not compiles:
            patch.setattr(decode, "compiled", lambda *_: None)
        device = open_device("cpu", checkpoint, dtype, granularity)
    assert isinstance(device, CpuDevice)
    assert (device._decode is not None) == compiles
    return device


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Models of sizes that neither rows, nor lanes, nor threads divide."""
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    return small_config(
        hidden_size=heads * draw(st.integers(1, 17)),
        intermediate_size=draw(st.integers(1, 90)),
        num_key_value_heads=kv_heads,
        num_attention_heads=heads,
        head_dim=draw(st.sampled_from((2, 4, 6, 16, 30, 64, 128))),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        rms_norm_eps=draw(st.sampled_from((1e-6, 1e-3))),
    )


def steps(
    device: CpuDevice, checkpoint: Checkpoint, batch: int, prompt: int, at_once: bool
) -> list[torch.Tensor]:
    """What all layers make of a prompt's positions and then of single ones, up to the end of a cache."""
    number, hidden = 5, checkpoint.config.hidden_size
    device.run(Call("open_cache"), (), (), (number, batch, CAPACITY))
    made, start = [], 0
    while start < CAPACITY:
        rows = prompt if start == 0 and prompt else 1
        x = normal(batch, rows, hidden, seed=start).to(device.dtype)
        cache = (number, start, start + rows)
        if at_once:
            out = torch.full((batch, hidden), torch.nan, dtype=device.dtype)
            device.run(Call("all_layers"), (x,), (out,), cache)
        else:
            for layer in range(checkpoint.config.num_layers):
                before, x = x, torch.full_like(x, torch.nan)
                device.run(Call("fused_layer", layer), (before,), (x,), cache)
            out = x
        made.append(out.float())
        start += rows
    device.run(Call("close_cache"), (), (), (number,))
    assert device._caches == {}
    return made


def assert_near(
    actual: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype
) -> None:
    bound = FLOAT32_BOUND if dtype == torch.float32 else BFLOAT16_BOUND
    for one, other in zip(actual, expected, strict=True):
        assert float((one - other).abs().max()) <= bound * float(other.abs().max())


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("at_once", [False, True], ids=["by layers", "at once"])
@pytest.mark.parametrize("dtype", DTYPES)
@given(config=configs(), batch=st.integers(1, 8), prompt=st.integers(0, 9), seed=st.integers(0, 99))
@settings(RANDOM, suppress_health_check=list(HealthCheck))
def test_single_positions_are_computed_as_without_a_compiler(
    dtype: torch.dtype, at_once: bool, config: ModelConfig, batch: int, prompt: int, seed: int
) -> None:
    granularity: Granularity = "model" if at_once else "layer"
    with temporary_model(config, seed) as checkpoint:
        fast = opened(checkpoint, dtype, granularity, compiles=True)
        plain = opened(checkpoint, dtype, granularity, compiles=False)
        actual = steps(fast, checkpoint, batch, prompt, at_once)
        assert_near(actual, steps(plain, checkpoint, batch, prompt, at_once), dtype)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_processor_that_multiplies_no_bfloat16_computes_the_same(
    checkpoint: Checkpoint, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = steps(opened(checkpoint, dtype, "layer", True), checkpoint, 2, 4, at_once=False)
    monkeypatch.setattr(cpu, "load_amx_kernels", lambda: None)
    monkeypatch.setattr(cpu, "has_bfloat16_products", lambda: False)
    for compiles in (True, False):
        device = opened(checkpoint, dtype, "layer", compiles)
        assert_near(steps(device, checkpoint, 2, 4, at_once=False), expected, dtype)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads_computes_the_same(checkpoint: Checkpoint, threads: int) -> None:
    expected = steps(opened(checkpoint, torch.float32, "model", True), checkpoint, 3, 2, True)
    torch.set_num_threads(threads)
    try:
        actual = steps(opened(checkpoint, torch.float32, "model", True), checkpoint, 3, 2, True)
    finally:
        torch.set_num_threads(1)
    assert_near(actual, expected, torch.float32)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("granularity", ["layer", "model"])
def test_a_closed_cache_is_given_back_at_once(
    checkpoint: Checkpoint, granularity: Granularity
) -> None:
    device = opened(checkpoint, torch.float32, granularity, compiles=True)
    device.run(Call("open_cache"), (), (), (1, 1, CAPACITY))
    x, out = normal(1, 1, 48, seed=0), torch.zeros(1, 1, 48)
    call = Call("all_layers") if granularity == "model" else Call("fused_layer", 0)
    device.run(call, (x,), (out[0] if granularity == "model" else out,), (1, 0, 1))
    kept = weakref.ref(device._caches[1])
    device.run(Call("close_cache"), (), (), (1,))
    assert kept() is None


@pytest.mark.usefixtures("compiler")
def test_what_is_no_number_stays_in_its_prompt_and_shows(checkpoint: Checkpoint) -> None:
    device = opened(checkpoint, torch.float32, "model", compiles=True)

    def answer(first: float) -> torch.Tensor:
        device.run(Call("open_cache"), (), (), (1, 2, CAPACITY))
        out = torch.zeros(2, 48)
        for start in range(3):
            x = normal(2, 1, 48, seed=start)
            x[0] = torch.where(torch.tensor(start == 1), first, x[0])
            device.run(Call("all_layers"), (x,), (out,), (1, start, start + 1))
        device.run(Call("close_cache"), (), (), (1,))
        return out

    odd, even = answer(torch.nan), answer(1.0)
    assert bool(odd[0].isnan().all()), "its keys and values were seen again"
    assert torch.equal(odd[1], even[1])
    assert bool(even.isfinite().all())


@pytest.fixture(scope="module")
def kernels(compiler: None, checkpoint: Checkpoint) -> Callable[[torch.dtype], DecodeKernels]:
    def make(dtype: torch.dtype) -> DecodeKernels:
        made = DecodeKernels.open(checkpoint, dtype, Scratch())
        assert made is not None
        return made

    return make


@given(
    rows=st.integers(1, MOST_ROWS),
    inner=st.one_of(st.integers(1, 70), st.sampled_from((255, 576, 1023))),
    columns=st.integers(1, 70),
    biased=st.booleans(),
    widths=st.sampled_from([(x, y) for x in DTYPES for y in DTYPES]),
    seed=st.integers(0, 1000),
)
@settings(RANDOM, max_examples=60)
def test_few_rows_are_multiplied_as_torch_does(
    kernels: Callable[[torch.dtype], DecodeKernels],
    rows: int,
    inner: int,
    columns: int,
    biased: bool,
    widths: tuple[torch.dtype, torch.dtype],
    seed: int,
) -> None:
    weights, wire = widths
    x, weight = normal(rows, inner, seed=seed).to(wire), normal(columns, inner, seed=seed + 1)
    weight = weight.to(weights)
    bias = normal(columns, seed=seed + 2) if biased else None
    room = torch.full((rows + 2, columns), 7.0, dtype=wire)
    kernels(weights).product(weight, bias, x, room[1:-1])
    error = FLOAT32_PRODUCT if wire == torch.float32 else BFLOAT16_RESULT
    assert_product(room[1:-1], x, weight, *([bias] if bias is not None else []), error=error)
    assert bool((room[0] == 7).all())
    assert bool((room[-1] == 7).all())


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("tokens", [1, 4, 5])
def test_linear_layers_of_few_rows_are_the_same_before_and_after_a_cache(
    checkpoint: Checkpoint, tokens: int
) -> None:
    device = opened(checkpoint, torch.float32, "operation", compiles=True)
    modules = ("q_proj", "k_proj", "v_proj")
    prefix = "model.layers.1.self_attn."
    weight = torch.cat([checkpoint.tensor(f"{prefix}{module}.weight") for module in modules])
    bias = torch.cat([checkpoint.tensor(f"{prefix}{module}.bias") for module in modules])
    x = normal(2, tokens, weight.shape[1], seed=0)
    for ready in (False, True):
        if ready:
            device.run(Call("open_cache"), (), (), (1, 2, CAPACITY))
        assert device._decode is not None
        assert device._decode.ready == ready
        out = run(device, checkpoint, Call("batch_linear", 1, modules), x)
        assert_product(out.flatten(0, 1), x.flatten(0, 1), weight, bias, error=FLOAT32_PRODUCT)
    head = checkpoint.tensor("lm_head.weight")
    last = normal(3, 48, seed=1)
    assert_product(
        run(device, checkpoint, Call("lm_head"), last), last, head, error=FLOAT32_PRODUCT
    )


@pytest.mark.usefixtures("compiler")
def test_weights_that_could_not_all_be_read_are_not_taken_for_ready(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = opened(checkpoint, torch.bfloat16, "model", compiles=True)
    expected = steps(opened(checkpoint, torch.bfloat16, "model", True), checkpoint, 1, 2, True)
    calls = iter(range(100))

    def short_of_memory(*arguments: object) -> object:
        if next(calls) == 9:  # within the second layer
            raise RuntimeError("not enough memory")
        return stacked_linear(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(decode, "stacked_linear", short_of_memory)
        with pytest.raises(RuntimeError, match="not enough memory"):
            device.run(Call("open_cache"), (), (), (1, 1, CAPACITY))
    assert device._caches == {}
    assert_near(steps(device, checkpoint, 1, 2, True), expected, torch.bfloat16)


@pytest.mark.usefixtures("compiler")
def test_the_kernels_stay_within_their_memory(tmp_path: Path) -> None:
    """Under the compiler's sanitizers for addresses and undefined behaviour."""
    compiler = shutil.which("cc") or shutil.which("gcc") or ""
    program = tmp_path / "decode"
    source = Path(__file__).with_name("decode_sanitized.c")
    flags = [flag for flag in decode._FLAGS if flag not in ("-O3", "-shared", "-fPIC")]
    built = subprocess.run(
        [
            compiler, "-O1", "-g", *flags, "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
            "-I", str(Path(decode.__file__).parent), "-o", str(program), str(source), "-lm",
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if built.returncode and "san" in built.stderr.rsplit("\n", 3)[-2]:
        pytest.skip(f"needs a compiler with sanitizers: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    ran = subprocess.run(
        [str(program)], env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert (ran.returncode, ran.stdout) == (0, "finite\n"), ran.stderr
