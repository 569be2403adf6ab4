"""What a worker can be asked to compute: the signature of each operation.

Both sides derive from it. The trusted side learns which shapes it must get back, the worker which
shapes it may be given, and neither believes the other.

An operation of attention takes all its keys and values with it, or appends them to a cache that the worker
keeps (``runtime.caches``): then ``keys`` says over how many positions the cache extends once they are appended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType

import torch
from msgspec import Struct

from runtime.checkpoints import ModelConfig
from runtime.errors import ProtocolError
from runtime.rope import max_length
from runtime.stages import Granularity
from runtime.tensors import TensorSpec

_REMEMBERED_CALLS = 1024


class Call(Struct, frozen=True):
    """One request without its tensors: the operation and what it is applied to."""

    operation: str
    layer: int | None = None
    modules: tuple[str, ...] = ()
    transpose_b: bool = False


def linear_shapes(config: ModelConfig) -> Mapping[str, tuple[int, int]]:
    """Map each linear module of a decoder layer to its (input, output) features."""
    query = config.num_heads * config.head_dim
    key_value = config.num_kv_heads * config.head_dim
    return {
        "q_proj": (config.hidden_size, query),
        "k_proj": (config.hidden_size, key_value),
        "v_proj": (config.hidden_size, key_value),
        "o_proj": (query, config.hidden_size),
        "gate_proj": (config.hidden_size, config.intermediate_size),
        "up_proj": (config.hidden_size, config.intermediate_size),
        "down_proj": (config.intermediate_size, config.hidden_size),
    }


def output_specs(
    config: ModelConfig,
    dtype: torch.dtype,
    call: Call,
    inputs: Sequence[TensorSpec],
    keys: int | None = None,
) -> tuple[TensorSpec, ...]:
    """Check ``call`` and its inputs against the model and derive what it answers.

    ``keys`` is the number of positions in the cache that the call appends to, with those that it appends.

    Raises:
        ProtocolError: naming the field that does not fit.
    """
    signature = SIGNATURES.get(call.operation)
    if signature is None:
        raise ProtocolError(
            "operation", f"{call.operation!r} is unknown; known are {', '.join(SIGNATURES)}"
        )
    _check_layer(config, call, signature.per_layer)
    if call.modules and not signature.takes_modules:
        raise ProtocolError("modules", f"{call.operation} takes none")
    if call.transpose_b and call.operation != "matmul":
        raise ProtocolError("transpose_b", f"{call.operation} does not transpose")
    if len(inputs) != len(signature.dtypes):
        raise ProtocolError(
            "inputs", f"{call.operation} takes {len(signature.dtypes)}, got {len(inputs)}"
        )
    for index, (spec, wanted) in enumerate(zip(inputs, signature.dtypes, strict=True)):
        wanted_dtype = wanted or dtype
        if spec.dtype != wanted_dtype:
            raise ProtocolError(
                f"inputs[{index}].dtype", f"{call.operation} takes {wanted_dtype}, got {spec.dtype}"
            )
    if keys is None and signature.needs_cache:
        raise ProtocolError("cache", f"{call.operation} needs one")
    if keys is not None and not signature.takes_cache:
        raise ProtocolError("cache", f"{call.operation} takes none")
    if keys is not None and call.operation == "matmul":
        shapes = _matmul_over_cache(config, call, inputs, keys)
    else:
        shapes = signature.shapes(config, call, inputs)
    return tuple(TensorSpec(dtype, shape) for shape in shapes)


OutputSpecs = Callable[[Call, tuple[TensorSpec, ...], int | None], tuple[TensorSpec, ...]]


def remembered_output_specs(config: ModelConfig, dtype: torch.dtype) -> OutputSpecs:
    """Return ``output_specs`` of one model, which remembers the calls that it found right.

    Every forward pass of one length repeats the calls of the one before; so does every token but for the length
    of what its attention extends over.
    """
    return lru_cache(maxsize=_REMEMBERED_CALLS)(partial(output_specs, config, dtype))


def matmul_rows(call: Call, inputs: Sequence[TensorSpec]) -> tuple[int, int]:
    """Return (matrices, positions) that a ``matmul`` appends to a cache: those of its second input.

    Raises:
        ProtocolError: if that is none of matrices.
    """
    if len(inputs) != 2 or len(inputs[1].shape) != 3:
        raise ProtocolError("inputs[1].shape", "must be (matrices, rows, columns)")
    return inputs[1].shape[0], inputs[1].shape[1]


def check_granularity(call: Call, granularity: str) -> None:
    """Refuse what a worker of this granularity has no weights for.

    Raises:
        ProtocolError: naming the operation.
    """
    signature = SIGNATURES.get(call.operation)
    if signature is not None and signature.granularity not in (None, granularity):
        raise ProtocolError("operation", f"{call.operation} is not served here")


def _check_layer(config: ModelConfig, call: Call, per_layer: bool) -> None:
    if not per_layer:
        if call.layer is not None:
            raise ProtocolError("layer", f"{call.operation} belongs to no layer, got {call.layer}")
    elif call.layer is None or not 0 <= call.layer < config.num_layers:
        raise ProtocolError("layer", f"{call.layer} is not in 0..{config.num_layers - 1}")


def _sequence(config: ModelConfig, spec: TensorSpec, field: str, features: int) -> tuple[int, int]:
    """Check a (batch, tokens, features) input; return (batch, tokens)."""
    if len(spec.shape) != 3 or spec.shape[2] != features:
        raise ProtocolError(field, f"must be (batch, tokens, {features}), got {spec.shape}")
    _check_length(config, spec.shape[1], field)
    return spec.shape[0], spec.shape[1]


def _check_length(config: ModelConfig, tokens: int, field: str) -> None:
    if tokens > max_length(config):
        raise ProtocolError(
            field, f"{tokens} tokens exceed the model's {max_length(config)} positions"
        )


Shapes = list[tuple[int, ...]]


def _embedding(config: ModelConfig, call: Call, inputs: Sequence[TensorSpec]) -> Shapes:
    shape = inputs[0].shape
    if len(shape) != 2:
        raise ProtocolError("inputs[0].shape", f"must be (batch, tokens), got {shape}")
    _check_length(config, shape[1], "inputs[0].shape")
    return [(*shape, config.hidden_size)]


def _batch_linear(config: ModelConfig, call: Call, inputs: Sequence[TensorSpec]) -> Shapes:
    known = linear_shapes(config)
    if not call.modules or len(set(call.modules)) != len(call.modules):
        raise ProtocolError(
            "modules", f"must name distinct linear modules, got {list(call.modules)}"
        )
    for module in call.modules:
        if module not in known:
            raise ProtocolError("modules", f"{module!r} is unknown; known are {', '.join(known)}")
    features = {known[module][0] for module in call.modules}
    if len(features) != 1:
        raise ProtocolError("modules", f"{list(call.modules)} do not share one input")
    batch, tokens = _sequence(config, inputs[0], "inputs[0].shape", features.pop())
    return [(batch, tokens, known[module][1]) for module in call.modules]


def _matmul(config: ModelConfig, call: Call, inputs: Sequence[TensorSpec]) -> Shapes:
    a, b = inputs[0].shape, inputs[1].shape
    if len(a) != 3:
        raise ProtocolError("inputs[0].shape", f"must be (matrices, rows, columns), got {a}")
    if len(b) != 3 or b[0] != a[0]:
        raise ProtocolError("inputs[1].shape", f"must be {a[0]} matrices, got {b}")
    inner, columns = (b[2], b[1]) if call.transpose_b else (b[1], b[2])
    if inner != a[2]:
        raise ProtocolError(
            "inputs[1].shape", f"does not multiply {a}: {b}, transpose_b={call.transpose_b}"
        )
    # A thin product of two small inputs may have a huge result: bound it by what attention needs.
    longest = max(max_length(config), config.head_dim)
    if a[1] > longest * (config.num_heads // config.num_kv_heads):
        raise ProtocolError("inputs[0].shape", f"{a[1]} rows exceed the model's positions")
    if columns > longest:
        raise ProtocolError("inputs[1].shape", f"{columns} columns exceed the model's positions")
    if config.head_dim not in (inner, columns):
        raise ProtocolError(
            "inputs[1].shape", f"is neither keys nor values of heads of {config.head_dim}"
        )
    return [(a[0], a[1], columns)]


def _matmul_over_cache(
    config: ModelConfig, call: Call, inputs: Sequence[TensorSpec], keys: int
) -> Shapes:
    """Of scores (transpose_b) or weighted values, whose second input is appended to the cache first."""
    a, b = inputs[0].shape, inputs[1].shape
    if len(b) != 3 or b[2] != config.head_dim or not 1 <= b[1] <= keys:
        raise ProtocolError(
            "inputs[1].shape",
            f"must be (matrices, at most {keys} rows, {config.head_dim}), got {b}",
        )
    rows = b[1] * (config.num_heads // config.num_kv_heads)
    inner, columns = (config.head_dim, keys) if call.transpose_b else (keys, config.head_dim)
    if a != (b[0], rows, inner):
        raise ProtocolError("inputs[0].shape", f"must be {(b[0], rows, inner)}, got {a}")
    return [(b[0], rows, columns)]


def _lm_head(config: ModelConfig, call: Call, inputs: Sequence[TensorSpec]) -> Shapes:
    shape = inputs[0].shape
    if len(shape) != 2 or shape[1] != config.hidden_size:
        raise ProtocolError(
            "inputs[0].shape", f"must be (batch, {config.hidden_size}), got {shape}"
        )
    return [(shape[0], config.vocab_size)]


def _fused_layer(config: ModelConfig, call: Call, inputs: Sequence[TensorSpec]) -> Shapes:
    batch, tokens = _sequence(config, inputs[0], "inputs[0].shape", config.hidden_size)
    return [(batch, tokens, config.hidden_size)]


def _all_layers(config: ModelConfig, call: Call, inputs: Sequence[TensorSpec]) -> Shapes:
    batch, _ = _sequence(config, inputs[0], "inputs[0].shape", config.hidden_size)
    return [(batch, config.hidden_size)]  # of the last position


def _next_logits(config: ModelConfig, call: Call, inputs: Sequence[TensorSpec]) -> Shapes:
    batch, _, _ = _embedding(config, call, inputs)[0]
    return [(batch, config.vocab_size)]


def _nothing(config: ModelConfig, call: Call, inputs: Sequence[TensorSpec]) -> Shapes:
    return []


@dataclass(frozen=True, slots=True)
class Signature:
    """How an operation's output shapes follow from its inputs.

    ``dtypes`` has one entry per input; None stands for the stage's own element type. ``granularity`` is
    that of the stages that need the operation, None if all do. ``per_layer`` says whether a call names a layer,
    ``takes_cache`` whether it may append to a cache, ``needs_cache`` whether it must.
    """

    shapes: Callable[[ModelConfig, Call, Sequence[TensorSpec]], Shapes]
    dtypes: tuple[torch.dtype | None, ...]
    granularity: Granularity | None = None
    per_layer: bool = False
    takes_modules: bool = False
    takes_cache: bool = False
    needs_cache: bool = False


SIGNATURES: Mapping[str, Signature] = MappingProxyType(
    {
        "embedding": Signature(_embedding, (torch.int64,)),
        "batch_linear": Signature(
            _batch_linear, (None,), "operation", per_layer=True, takes_modules=True
        ),
        "matmul": Signature(_matmul, (None, None), "operation", per_layer=True, takes_cache=True),
        "fused_layer": Signature(_fused_layer, (None,), "layer", per_layer=True, takes_cache=True),
        "all_layers": Signature(_all_layers, (None,), "model", takes_cache=True),
        "next_logits": Signature(
            _next_logits, (torch.int64,), "model", takes_cache=True, needs_cache=True
        ),
        "lm_head": Signature(_lm_head, (None,)),
        "open_cache": Signature(_nothing, ()),
        "trim_cache": Signature(_nothing, ()),
        "close_cache": Signature(_nothing, ()),
        "ping": Signature(_nothing, ()),
    }
)
