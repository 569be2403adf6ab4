"""Checkpoints of random weights: the same bytes from the same seed on every machine."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from runtime.checkpoints.cache import require_space
from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.layout import tensor_shapes
from runtime.checkpoints.progress import Advance
from runtime.checkpoints.weights import write_weights


def write_random_checkpoint(
    directory: Path, config: ModelConfig, seed: int, advance: Advance = lambda done, total: None
) -> None:
    """Writes ``config.json`` and float32 safetensors, holding about one gigabyte at a time.

    Raises CheckpointError if the disk has no room for it.
    """
    shapes = tensor_shapes(config)
    total = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    require_space(directory, total)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        done = 0
        for name, shape in shapes.items():
            tensor = random_tensor(name, shape, seed)
            done += tensor.nbytes
            advance(done, total)
            yield name, tensor

    (directory / "config.json").write_text(json.dumps(config.to_hf(), indent=2))
    write_weights(directory, tensors())


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """float32 values that depend on name and seed alone.

    A matrix gets variance 1 / columns, which keeps activations, attention scores and logits near 1
    in a model of any size; a norm's weight lies within 0.1 of 1, so that forgetting it shows.
    """
    # Uniform, not normal: multiples of 2**-24, one subtraction and one product round the same way
    # everywhere, where logarithms and cosines would not.
    stream = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
    values = np.random.Generator(stream).random(shape, dtype=np.float32)
    values -= np.float32(0.5)
    if len(shape) == 2:
        values *= np.float32((12 / shape[1]) ** 0.5)
    else:
        values *= np.float32(0.2)
    if name.endswith("norm.weight"):
        values += np.float32(1)
    return torch.from_numpy(values)
