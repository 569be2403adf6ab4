"""The worker's operations one by one, on made-up values: through the very kernels that the CPU device uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import torch

from perfsuite.llama.workload import Operation
from runtime.devices.cpu import choose_kernels, multiply_matrices
from runtime.devices.layer_kernels import LayerKernels
from runtime.devices.scratch import Scratch

Run = Callable[[], object]

SHARED_BYTES = 64 << 20

_EPS = 1e-5


class DeviceOperations:
    """Builds operations at given shapes; kernels and their scratch memory are shared, as on the device.

    So are the inputs that are not weights: in a forward pass the operation before has just written them, and
    inputs of each operation's own would be met in memory instead of in the caches. Weights are met in memory:
    an operation takes those of one layer after the other.
    """

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._kernels: dict[str, LayerKernels] = {}
        self._inputs: dict[torch.dtype, torch.Tensor] = {}

    def values(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Return made-up values that an operation reads: in memory that all share, as far as they fit."""
        count = prod(shape)
        if count * dtype.itemsize > SHARED_BYTES:  # in no cache anyway
            return torch.randn(shape).to(dtype)
        if dtype not in self._inputs:
            self._inputs[dtype] = torch.randn(SHARED_BYTES // dtype.itemsize).to(dtype)
        return self._inputs[dtype][:count].view(shape)

    def build(self, operation: Operation, layers: int = 1) -> Run:
        """Return what computes ``operation`` once, into fresh memory where its results are private.

        Where a layer multiplies with weights, there are those of so many ``layers``, used in turn.

        Raises:
            KeyError: for a kind that no device computes.
        """
        if operation.kind in _LINEAR_BUILDERS:
            return _LINEAR_BUILDERS[operation.kind](self, operation, layers)
        return _BUILDERS[operation.kind](self, operation)

    def kernels(self, operation: Operation) -> LayerKernels:
        """Return the kernels that the device would choose for the operation's element type."""
        if operation.dtype not in self._kernels:
            dtype: torch.dtype = getattr(torch, operation.dtype)
            self._kernels[operation.dtype] = choose_kernels(dtype, self._scratch)
        return self._kernels[operation.dtype]


def results(operation: Operation, *shape: int) -> Callable[[], torch.Tensor]:
    """Return what gives memory for results: fresh each time, or the same, as the arena's slots are."""
    dtype: torch.dtype = getattr(torch, operation.dtype)
    if operation.memory == "private":
        return lambda: torch.empty(shape, dtype=dtype)
    memory = torch.zeros(shape, dtype=dtype)
    return lambda: memory


def _values(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


def _wire(operation: Operation) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, operation.dtype)
    return dtype


def _linear(device: DeviceOperations, operation: Operation, layers: int) -> Run:
    kernels = device.kernels(operation)
    rows, inner, columns = operation.shape
    packed = _weights(kernels, columns, inner, layers)
    x = kernels.activation(device.values(kernels.dtype, rows, inner))
    if operation.call == "batch_linear":
        out = results(operation, rows, columns)
        return lambda: kernels.linear(x, next(packed), out())
    return lambda: kernels.linear(x, next(packed))


def _linear_residual(device: DeviceOperations, operation: Operation, layers: int) -> Run:
    kernels = device.kernels(operation)
    rows, inner, columns = operation.shape
    packed = _weights(kernels, columns, inner, layers)
    x = kernels.activation(device.values(kernels.dtype, rows, inner))
    total = torch.zeros(rows, columns)  # sums are float32 whatever crosses
    return lambda: kernels.linear(x, next(packed), total, residual=total)


def _weights(kernels: LayerKernels, columns: int, inner: int, layers: int) -> Iterator[Any]:
    values = (_values(kernels.dtype, columns, inner) for _ in range(layers))
    return itertools.cycle([kernels.pack(each, None) for each in values])


def _activation(device: DeviceOperations, operation: Operation) -> Run:
    kernels = device.kernels(operation)
    dtype = _wire(operation) if operation.call == "batch_linear" else kernels.dtype
    x = device.values(dtype, *operation.shape)
    return lambda: kernels.activation(x.to(kernels.dtype))


def _normed(device: DeviceOperations, operation: Operation) -> Run:
    kernels = device.kernels(operation)
    x, weight = (
        device.values(torch.float32, *operation.shape),
        torch.ones(operation.shape[1], dtype=kernels.dtype),
    )
    return lambda: kernels.normed(x, weight, _EPS)


def _gated(device: DeviceOperations, operation: Operation) -> Run:
    kernels = device.kernels(operation)
    rows, features = operation.shape
    x = device.values(kernels.dtype, rows, 2 * features)
    return lambda: kernels.gated(x)


def _rotate(device: DeviceOperations, operation: Operation) -> Run:
    kernels = device.kernels(operation)
    heads, tokens, size = operation.shape
    x = device.values(kernels.dtype, 1, tokens, heads, size)
    cos, sin = torch.ones(tokens, size // 2), torch.zeros(tokens, size // 2)
    return lambda: kernels.rotated(x, heads, cos, sin)


def _attention(device: DeviceOperations, operation: Operation) -> Run:
    return _attended(device, operation, *operation.shape)


def _attended(
    device: DeviceOperations,
    operation: Operation,
    heads: int,
    kv_heads: int,
    queries: int,
    keys: int,
    size: int,
) -> Callable[[], torch.Tensor]:
    kernels = device.kernels(operation)
    # Queries and keys lie head after head once they are turned, values as they were projected.
    turned = device.values(kernels.dtype, heads * queries + kv_heads * keys, size)
    query, key = turned.tensor_split((heads * queries,))
    query, key = query.view(1, heads, queries, size), key.view(1, kv_heads, keys, size)
    value = device.values(kernels.dtype, 1, keys, kv_heads, size).transpose(1, 2)
    return lambda: kernels.attended(query, key, value)


def _join_heads(device: DeviceOperations, operation: Operation) -> Run:
    heads, tokens, size = operation.shape
    # As these kernels leave it: head after head, which is copied, or in the order of tokens, which is not.
    x = _attended(device, operation, heads, heads, tokens, tokens, size)()
    return lambda: x.transpose(1, 2).reshape(tokens, heads * size)


def _recall(device: DeviceOperations, operation: Operation) -> Run:
    dtype = _wire(operation)
    remembered = torch.randn(operation.shape)
    x = remembered.to(dtype)
    return lambda: torch.equal(remembered.to(dtype), x)


def _copy(device: DeviceOperations, operation: Operation) -> Run:
    # The residual sum, which the device keeps in float32, to or from the wire's type.
    x, out = torch.randn(operation.shape), results(operation, *operation.shape)
    return lambda: out().copy_(x)


def _scores(device: DeviceOperations, operation: Operation) -> Run:
    matrices, rows, inner, columns = operation.shape
    a, b = (device.values(_wire(operation), matrices, count, inner) for count in (rows, columns))
    out = results(operation, matrices, rows, columns)
    return lambda: multiply_matrices(a, b.transpose(1, 2), out())


def _weighted(device: DeviceOperations, operation: Operation) -> Run:
    matrices, rows, inner, columns = operation.shape
    a = device.values(_wire(operation), matrices, rows, inner)
    b = device.values(_wire(operation), matrices, inner, columns)
    out = results(operation, matrices, rows, columns)
    return lambda: multiply_matrices(a, b, out())


def _embedding(device: DeviceOperations, operation: Operation) -> Run:
    tokens, features = operation.shape
    table = _values(_wire(operation), 4 * tokens, features)
    ids, out = torch.randint(len(table), (tokens,)), results(operation, tokens, features)
    return lambda: torch.index_select(table, 0, ids, out=out())


def _lm_head(device: DeviceOperations, operation: Operation) -> Run:
    rows, inner, columns = operation.shape
    x = device.values(_wire(operation), rows, inner)
    head = _values(_wire(operation), columns, inner)
    out = results(operation, rows, columns)
    return lambda: torch.mm(x, head.t(), out=out())


_LINEAR_BUILDERS: Mapping[str, Callable[[DeviceOperations, Operation, int], Run]] = (
    MappingProxyType({"linear": _linear, "linear_residual": _linear_residual})
)
_BUILDERS: Mapping[str, Callable[[DeviceOperations, Operation], Run]] = MappingProxyType(
    {
        "activation": _activation,
        "normed": _normed,
        "gated": _gated,
        "rotate": _rotate,
        "attention": _attention,
        "join_heads": _join_heads,
        "recall": _recall,
        "copy": _copy,
        "scores": _scores,
        "weighted": _weighted,
        "embedding": _embedding,
        "lm_head": _lm_head,
    }
)
