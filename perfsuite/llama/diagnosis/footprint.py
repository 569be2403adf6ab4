"""How much memory a diagnosis will need, from a model's configuration alone, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perfsuite.errors import UsageError
from perfsuite.llama.bursts import patterns
from perfsuite.llama.cost_model import Accelerator
from perfsuite.llama.diagnosis.null_worker import MOST_SWEPT
from perfsuite.llama.diagnosis.sweep import ARENA_BYTES
from runtime.checkpoints import PRESETS, ModelConfig
from runtime.checkpoints.checkpoint import CONFIG_FILE
from runtime.checkpoints.weights import read_json
from runtime.operations import linear_shapes
from runtime.stages import Stage
from runtime.traffic import layer_calls, live_bytes
from runtime.transports.registry import TRANSPORTS

_PROCESS_BYTES = 350_000_000  # Python and torch, before anything is computed
_COMPUTED_BYTES = (
    4  # of a weight as it is multiplied: float32, which narrower ones may be widened to
)


def known_config(source: str) -> ModelConfig | None:
    """Return a model's configuration without its weights; None where only loading it can tell.

    Raises:
        CheckpointError: for a ``config.json`` that is not a LLaMA's.
    """
    if source in PRESETS:
        return PRESETS[source].config
    file = Path(source).expanduser() / CONFIG_FILE
    return ModelConfig.from_hf(read_json(file)) if file.is_file() else None


def weight_bytes(config: ModelConfig, item_bytes: int) -> int:
    """Return the bytes of a model's matrices at ``item_bytes`` a weight, tied embeddings counted once."""
    layer = sum(inner * columns for inner, columns in linear_shapes(config).values())
    ends = config.hidden_size * config.vocab_size * (1 if config.tie_word_embeddings else 2)
    return (config.num_layers * layer + ends) * item_bytes


def memory_needed(config: ModelConfig, stages: Sequence[Stage], tokens: int, routes: int) -> int:
    """Return the bytes that a diagnosis of ``stages`` needs: every worker is alive at once.

    Counted are each worker's weights in the form in which it multiplies them, the tensors of a forward pass,
    the messages of a route without shared memory, the operations that are timed one by one, and the
    processes. The mapped checkpoint itself is not: its pages can be dropped.
    """
    weights = weight_bytes(config, _COMPUTED_BYTES)
    total = (2 + routes + len(stages)) * _PROCESS_BYTES + routes * ARENA_BYTES
    for pattern in patterns(config, stages, tokens):
        total += MOST_SWEPT  # of further weights
        total += sum(row.bytes for burst in pattern for row in burst.operations)
    for stage in stages:
        total += weights + live_bytes(config, stage, tokens)
        if not TRANSPORTS[stage.transport].shares_memory:
            largest = max(
                call.bytes_sent + call.bytes_received for call in layer_calls(config, stage, tokens)
            )
            total += 4 * largest  # in each side's memory, as tensors and as messages
    return total


def check_memory(model: str, needed: int, available: int) -> None:
    """Refuse what does not fit.

    Raises:
        UsageError: saying how much is needed and what to do.
    """
    if needed > available:
        raise UsageError(
            f"--model {model}: needs about {needed / 1e9:,.1f} GB of memory, {available / 1e9:,.1f} GB are "
            "available; choose fewer --stages, fewer --tokens or a smaller model"
        )


def check_accelerator(
    accelerator: Accelerator, config: ModelConfig, stages: Sequence[Stage]
) -> None:
    """Refuse to project a model onto a device whose memory cannot hold it.

    Raises:
        UsageError: saying how much is needed.
    """
    needed = max(weight_bytes(config, stage.torch_dtype.itemsize) for stage in stages)
    if needed > accelerator.memory_bytes:
        raise UsageError(
            f"--what-if device={accelerator.name}: the weights need {needed / 1e9:,.1f} GB, the "
            f"{accelerator.title} has {accelerator.memory_bytes / 1e9:,.0f}; choose a larger device"
        )
