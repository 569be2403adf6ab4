"""What a forward pass takes, predicted from a model's configuration, a stage, and a machine's constants.

total = sum over calls of serialize + transport + device + deserialize, plus trusted compute.

Pure functions. The constants come from microbenchmarks of single calls and single operations
(``perfsuite/diagnosis``); no forward pass, and no total of one, is ever among them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from perfsuite.llama.machine_constants import MachineConstants
from perfsuite.llama.recording import operations
from perfsuite.llama.results import PHASES
from perfsuite.llama.workload import Operation, memory_of
from runtime.caches import cache_bytes
from runtime.checkpoints import ModelConfig
from runtime.checkpoints.layout import EMBEDDING, tensor_shapes
from runtime.stages import Stage
from runtime.traffic import CallTraffic, end_calls, layer_calls, next_logits_call
from runtime.transports.registry import TRANSPORTS

if TYPE_CHECKING:
    import torch

BOUNDS = ("compute", "memory", "transport", "per-call", "trusted")


def route_of(transport: str) -> str:
    """Return the route that a transport takes to a worker on the same machine."""
    row = TRANSPORTS[transport]
    return row.routes[row.scheme]


@dataclass(frozen=True)
class Accelerator:
    """A device by its published peaks: FLOP/s by element type, bytes/s of its memory and of its host link."""

    name: str
    title: str
    flops: Mapping[str, float]
    memory_bandwidth: float
    host_bandwidth: float
    memory_bytes: float
    source: str

    def seconds(self, operation: Operation) -> tuple[float, str]:
        """Return the least seconds of one time of ``operation``, and its bound (roofline model).

        Source: Williams, Waterman, Patterson, Roofline, 2009.
        """
        compute = operation.flops / self.flops[operation.dtype]
        memory = operation.bytes / self.memory_bandwidth
        return max((compute, "compute"), (memory, "memory"))


@dataclass(frozen=True)
class Prediction:
    """A stage's seconds: by phase, by what bounds them, and the device's by RPC operation and by kind."""

    stage: str
    phases: Mapping[str, float]
    bounds: Mapping[str, float]
    device_by_call: Mapping[str, float]
    by_kind: Mapping[tuple[str, str], float]
    rpc_count: int

    @property
    def total_s(self) -> float:
        """Seconds of the whole forward pass."""
        return sum(self.phases.values())

    @property
    def bound(self) -> str:
        """What most of the time is spent on."""
        return max(self.bounds, key=self.bounds.__getitem__)


@dataclass(frozen=True)
class Assumptions:
    """What a projection changes: another route, a named device, the number of calls. None leaves it."""

    route: str | None = None
    accelerator: Accelerator | None = None
    rpc_count: int | None = None


def _zeros() -> dict[Any, float]:
    return defaultdict(float)


@dataclass
class _Sums:
    phases: dict[str, float] = field(default_factory=_zeros)
    bounds: dict[str, float] = field(default_factory=_zeros)
    device_by_call: dict[str, float] = field(default_factory=_zeros)
    by_kind: dict[tuple[str, str], float] = field(default_factory=_zeros)
    empty_calls: dict[str, float] = field(default_factory=_zeros)  # by phase

    def prediction(self, stage: Stage, rpc_count: int) -> Prediction:
        return Prediction(
            stage.name,
            {phase: self.phases[phase] for phase in PHASES},
            {bound: self.bounds[bound] for bound in BOUNDS},
            dict(self.device_by_call),
            dict(self.by_kind),
            rpc_count,
        )


def predict(
    config: ModelConfig,
    stage: Stage,
    tokens: int,
    constants: MachineConstants,
    assumed: Assumptions | None = None,
) -> Prediction:
    """Predict a forward pass of ``stage`` over one prompt of ``tokens`` tokens.

    Raises:
        KeyError: for a route or an operation without a constant.
    """
    assumed = assumed or Assumptions()
    route_name = assumed.route or route_of(stage.transport)
    sums = _Sums()
    for operation in operations(config, stage, tokens, memory_of(route_name)):
        _add_operation(sums, operation, constants, assumed.accelerator)
    calls = (
        *end_calls(config, stage, tokens),
        *layer_calls(config, stage, tokens) * config.num_layers,
    )
    for call in calls:
        _add_call(sums, call, constants, route_name, assumed)
    count = assumed.rpc_count or len(calls)
    if count != len(calls):
        _recount(sums, count / len(calls))
    return sums.prediction(stage, count)


def token_bytes(config: ModelConfig, dtype: torch.dtype, position: int) -> int:
    """Return what a device must read for one more token: each matrix once, and the keys and values before it.

    Of an embedding that is not the head too, one row does not count.
    """
    shapes = dict(tensor_shapes(config))
    if not config.tie_word_embeddings:
        del shapes[EMBEDDING]
    elements = sum(prod(shape) for shape in shapes.values())
    return elements * dtype.itemsize + cache_bytes(config, dtype.itemsize, 1, position)


def predict_token(
    config: ModelConfig, stage: Stage, position: int, constants: MachineConstants
) -> Prediction:
    """Predict one more token of ``stage`` after ``position`` others, whose keys and values the worker has.

    The device is taken to be bound by memory: it reads its weights once. What the trusted side computes has the
    rates of a single row, as far as they were measured.

    Raises:
        KeyError: for a route or an operation without a constant.
    """
    route_name = route_of(stage.transport)
    sums = _Sums()
    if stage.granularity == "model":
        calls: tuple[CallTraffic, ...] = (next_logits_call(config, stage),)
    else:
        layers = layer_calls(config, stage, 1, keys=position + 1) * config.num_layers
        calls = (*end_calls(config, stage, 1), *layers)
        for operation in operations(config, stage, 1, memory_of(route_name)):
            if operation.side == "trusted":
                _add_operation(sums, operation, constants, None)
    device_s = token_bytes(config, stage.torch_dtype, position) / constants.bandwidth
    sums.phases["device"] += device_s
    sums.bounds["memory"] += device_s
    for call in calls:
        _add_call(sums, call, constants, route_name, Assumptions())
    return sums.prediction(stage, len(calls))


def _add_operation(
    sums: _Sums,
    operation: Operation,
    constants: MachineConstants,
    accelerator: Accelerator | None,
) -> None:
    if operation.side == "trusted":
        once, bound = constants.seconds(operation), "trusted"
    elif accelerator is not None:
        once, bound = accelerator.seconds(operation)
    else:
        once = constants.seconds(operation)
        compute = operation.flops / constants.peak_flops(operation.dtype)
        bound = "compute" if compute > operation.bytes / constants.bandwidth else "memory"
    seconds = once * operation.times
    sums.phases[operation.side] += seconds
    sums.bounds[bound] += seconds
    sums.by_kind[operation.side, operation.kind] += seconds
    if operation.side == "device":
        sums.device_by_call[operation.call] += seconds


def _add_call(
    sums: _Sums,
    call: CallTraffic,
    constants: MachineConstants,
    route_name: str,
    assumed: Assumptions,
) -> None:
    route = constants.routes[route_name]
    for phase in route.sent:
        seconds = route.seconds(phase, call)
        alone = min(seconds, route.per_call_s(phase))
        sums.phases[phase] += seconds
        sums.empty_calls[phase] += alone
        sums.bounds["per-call"] += alone
        sums.bounds["transport"] += seconds - alone
    if assumed.accelerator is not None:
        # What crosses to the worker crosses its host link too.
        link = (call.bytes_sent + call.bytes_received) / assumed.accelerator.host_bandwidth
        sums.phases["device"] += link
        sums.bounds["transport"] += link
        sums.device_by_call[call.operation] += link


def _recount(sums: _Sums, times: float) -> None:
    """Make ``times`` as many calls as now, which carry the same payload."""
    for phase, seconds in sums.empty_calls.items():
        sums.phases[phase] += (times - 1) * seconds
        sums.bounds["per-call"] += (times - 1) * seconds
