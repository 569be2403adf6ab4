"""The operations of a forward pass, found by running it on tensors that have a shape and no data.

The runtime's own forward pass calls its own CPU device, with torch's meta tensors. What the device's kernels are
asked for is noted by kernels that compute nothing; what is computed beside them, on either side, is seen as torch
dispatches it. Nothing that reads or writes an activation goes unnoticed: without a kind here it is an error.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from types import CodeType, FrameType, MappingProxyType
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from perfsuite.errors import MeasurementError
from perfsuite.llama.workload import Memory, Operation, Shape, Side, memory_of
from runtime.caches import CacheBooks, Window
from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.checkpoints.layout import EMBEDDING, LM_HEAD, tensor_shapes
from runtime.devices.base import checked_ids
from runtime.devices.cpu import CpuDevice, multiply_matrices
from runtime.devices.layer_kernels import Activation, LayerKernels, Linear
from runtime.forward import ForwardPass
from runtime.nonlinear import apply_rope, causal_softmax, rms_norm, silu_mul
from runtime.operations import Call, output_specs
from runtime.rpc import RpcClient
from runtime.stages import Stage
from runtime.tensors import TensorSpec

_CACHE = 0  # the number of the one that is used

Kind = tuple[str, Shape]
"""Of an operation: what its shape means is said in ``workload.Operation``."""


def operations(
    config: ModelConfig,
    stage: Stage,
    tokens: int,
    memory: Memory | None = None,
    *,
    cached: int = 0,
) -> tuple[Operation, ...]:
    """List the operations of a forward pass of ``stage`` over one prompt, those of its equal layers once.

    Each layer's stand where the first layer runs them. What the trusted side computes serves the next call, where
    there is one. ``memory`` is that of the stage's own transport unless it is given. With ``cached``, the tokens
    follow so many whose keys and values the worker keeps: 1 after n is a step of generation, by the kernels of
    prompts.

    Raises:
        MeasurementError: for an operation that has no kind.
    """
    memory = memory or memory_of(stage.transport)
    return tuple(
        dataclasses.replace(row, memory=memory) for row in _recorded(config, stage, tokens, cached)
    )


@lru_cache(maxsize=64)
def _recorded(config: ModelConfig, stage: Stage, tokens: int, cached: int) -> Sequence[Operation]:
    # What is computed with the angles does not depend on them.
    rope = {"rope_type": "default", "rope_theta": 1e4}
    positions = max(tokens + cached, config.max_positions)
    two, three = (
        _Run(
            dataclasses.replace(config, num_layers=layers, rope=rope, max_positions=positions),
            stage,
        ).forward(tokens, cached)
        for layers in (2, 3)
    )
    size = len(three) - len(two)
    # A layer is what one layer more adds: the first stretch of that length which is repeated.
    for start in range(len(three) - 2 * size + 1):
        first, *others = (
            three[begin : begin + size] for begin in range(start, start + 3 * size, size)
        )
        without = [*three[:start], *three[start + size :]]
        if _computed(first) != _computed(others[0]) or _computed(two) != _computed(without):
            continue
        # The last layer may be another: it stands with what comes after the layers.
        equal = 3 if _computed(first) == _computed(others[1]) else 2
        times = config.num_layers - (3 - equal)
        layer = [dataclasses.replace(row, times=times) for row in first if times]
        return [*three[:start], *layer, *three[start + equal * size :]]
    raise MeasurementError(f"stage {stage.name}: its layers differ in what they compute")


def _computed(rows: Sequence[Operation]) -> Sequence[tuple[Side, str, Shape]]:
    # What the trusted side does at the end of the last layer serves another call than elsewhere.
    return [(row.side, row.kind, row.shape) for row in rows]


class _Run:
    """Both sides of a model. To the forward pass it is the client and its channel."""

    def __init__(self, config: ModelConfig, stage: Stage) -> None:
        self.config = config
        self.channel = self
        self._dtype = stage.torch_dtype
        self._stage = stage
        self._caches = CacheBooks(config)
        self._found: list[Operation] = []
        self._call = ""  # that the device computes
        self._function: FrameType | None = None
        checkpoint = _Shapes(self.config)
        kernels = _RecordingKernels(self._dtype, self._note)
        self._device = CpuDevice(checkpoint, self._dtype, stage.granularity, kernels)
        self._pass = ForwardPass(checkpoint, stage, cast("RpcClient", self))

    def forward(self, tokens: int, cached: int) -> Sequence[Operation]:
        """Run it over one prompt, after ``cached`` tokens; return all operations in order."""
        window = Window(0, tokens)
        with torch.no_grad(), _Dispatch(self._note_dispatched):
            if cached:
                length = cached + tokens
                self.call(Call("open_cache"), cache=(_CACHE, 1, length))
                before = Window(0, cached, length, _CACHE)
                self._pass.append(_meta((1, cached), torch.int64), before)
                self._found.clear()
                window = Window(cached, tokens, length, _CACHE)
            self._pass.logits(_meta((1, tokens), torch.int64), window)
        call = next(row.call for row in reversed(self._found) if row.call)
        found = []
        for row in reversed(self._found):
            call = row.call or call
            found.append(dataclasses.replace(row, call=call))
        return found[::-1]

    def empty(self, spec: TensorSpec) -> torch.Tensor:
        """As a channel's."""
        return _meta(spec.shape, spec.dtype)

    def call(
        self, call: Call, *inputs: torch.Tensor, cache: tuple[int, ...] = ()
    ) -> Sequence[torch.Tensor]:
        """As a client's."""
        given = [TensorSpec.of(x) for x in inputs]
        keys = self._caches.check(call, cache, given)
        specs = output_specs(self.config, self._dtype, call, given, keys)
        outputs = [self.empty(spec) for spec in specs]
        self._call = call.operation
        self._device.run(call, inputs, outputs, cache)
        self._call = ""
        self._caches.note(call, cache, keys)
        return outputs

    def _note(self, kind: str, shape: Shape) -> None:
        side: Side = "device" if self._call else "trusted"
        self._found.append(
            Operation(side, self._call, kind, tuple(shape), self._stage.dtype, "private")
        )

    def _note_dispatched(self, name: str, args: Sequence[Any]) -> None:
        """Note what is computed by a function of the runtime that has a kind, or else by itself."""
        frame: FrameType | None = sys._getframe()
        while frame and frame.f_code not in _FUNCTIONS:
            frame = frame.f_back
        if frame is None:
            table = _ON_DEVICE if self._call else _ON_TRUSTED_SIDE
            if name not in table:
                side = f"the device, in {self._call}" if self._call else "the trusted side"
                raise MeasurementError(
                    f"{name} on {side}: has no kind in perfsuite/llama/recording.py"
                )
            self._note(*table[name](*args))
        elif (
            frame is not self._function
        ):  # whatever one call of a function computes is one operation
            self._function = frame
            for kind in _FUNCTIONS[frame.f_code](**frame.f_locals):
                self._note(*kind)


class _Shapes(Checkpoint):
    """A checkpoint of nothing but shapes."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._shapes = tensor_shapes(config)

    def tensor(self, name: str) -> torch.Tensor:
        tied = name == LM_HEAD and self.config.tie_word_embeddings
        return _meta(self._shapes[EMBEDDING if tied else name], torch.float32)


class _RecordingKernels(LayerKernels):
    """Notes what the device asks for and answers tensors of the right shape."""

    def __init__(self, dtype: torch.dtype, note: Callable[[str, Shape], None]) -> None:
        self.dtype, self.name = dtype, "none"
        self._note = note

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return Linear(weight.shape[0], (weight,), bias)

    def activation(self, x: torch.Tensor) -> Activation:
        self._note("activation", x.shape)
        return self._made(x.shape)

    def normed(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        self._note("normed", x.shape)
        return self._made(x.shape)

    def gated(self, x: torch.Tensor) -> Activation:
        shape = (x.shape[0], x.shape[1] // 2)
        self._note("gated", shape)
        return self._made(shape)

    def rotated(
        self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        batch, tokens, _, size = x.shape
        self._note("rotate", (batch * heads, tokens, size))
        return _meta((batch, heads, tokens, size), self.dtype)

    def linear(
        self,
        x: Activation,
        linear: Linear,
        out: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        kind = "linear" if residual is None else "linear_residual"
        self._note(kind, (*x.parts[0].shape, linear.columns))
        return _meta((x.rows, linear.columns), self.dtype) if out is None else out

    def attended(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        batch, heads, rows, size = queries.shape
        _, kv_heads, positions, _ = keys.shape
        self._note("attention", (batch * heads, batch * kv_heads, rows, positions, size))
        return _meta(queries.shape, self.dtype)

    def _made(self, shape: Sequence[int]) -> Activation:
        return Activation(shape[0], (_meta(shape, self.dtype),))


def _meta(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _rows(x: torch.Tensor) -> Shape:
    return prod(x.shape[:-1]), x.shape[-1]


def _heads(x: torch.Tensor) -> Shape:
    return x.shape[0] * x.shape[1], *x.shape[2:]


def _product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, **_: Any) -> Sequence[Kind]:
    transposed = b.stride(1) != b.shape[2]
    return [("scores" if transposed else "weighted", (*a.shape, out.shape[2]))]


def _copied(x: torch.Tensor, y: torch.Tensor, *_: Any) -> Kind:
    if x.dtype == torch.int64:
        return "token_ids", x.shape
    # Of a head's rows each follows the one before, or all heads of its token lie between.
    return "split_heads" if x.stride(2) == x.shape[3] else "join_heads", _heads(x)


_FUNCTIONS: Mapping[CodeType, Callable[..., Sequence[Kind]]] = MappingProxyType(
    {
        rms_norm.__code__: lambda x, **_: [("rms_norm", _rows(x))],
        apply_rope.__code__: lambda x, **_: [("rope", _heads(x))],
        causal_softmax.__code__: lambda scores, **_: [("softmax", scores.shape)],
        silu_mul.__code__: lambda gate, **_: [("silu_mul", _rows(gate))],
        multiply_matrices.__code__: _product,
        checked_ids.__code__: lambda **_: [],  # eight bytes a token
        CpuDevice._recalled.__code__: lambda x, **_: [("recall", _rows(x))],
    }
)
"""Functions whose operations are one, by their arguments."""

_ON_TRUSTED_SIDE: Mapping[str, Callable[..., Kind]] = MappingProxyType(
    {
        "copy_": _copied,
        "add": lambda x, *_: ("add", _rows(x)),
        "add_": lambda x, *_: ("add_in_place", _rows(x)),
        "_to_copy": lambda x, *_: ("logits", x.shape),
    }
)
"""What the forward pass itself has torch compute, by the name of torch's operation."""

_ON_DEVICE: Mapping[str, Callable[..., Kind]] = MappingProxyType(
    {
        "index": lambda table, ids: ("embedding", (ids[0].numel(), table.shape[1])),
        "index_select": lambda table, dim, ids: ("embedding", (*ids.shape, table.shape[1])),
        "mm": lambda x, weight: ("lm_head", (*x.shape, weight.shape[1])),
        "clone": lambda x: ("join_heads", _heads(x.transpose(1, 2))),
        "copy_": lambda x, *_: ("copy", _rows(x)),
    }
)
"""The same of the device, beside its kernels."""


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of each operation on a meta tensor but views; computes shapes, and whatever has data."""

    def __init__(self, tell: Callable[[str, Sequence[Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tell = tell

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        schema, name = func._schema, func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        view = any(each.alias_info and not each.alias_info.is_write for each in schema.returns)
        if view or name == "_unsafe_view" or not any(x.is_meta for x in given):
            return func(*args, **kwargs)
        self._tell(name, args)
        if func in _ANSWERS:
            return _ANSWERS[func]
        for index, argument in enumerate(schema.arguments):
            if argument.alias_info and argument.alias_info.is_write:
                return kwargs.get(argument.name, args[index] if index < len(args) else None)
        return func(*args, **kwargs)


_ANSWERS: Mapping[Any, Any] = MappingProxyType(
    {
        torch.ops.aten.equal.default: True,  # the residual sum comes back as it was sent
        torch.ops.aten._local_scalar_dense.default: 0,  # the least and the largest token
    }
)
