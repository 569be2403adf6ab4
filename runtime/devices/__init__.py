"""The hardware that a worker owns. Only ``cuda.py`` knows of GPUs."""

from __future__ import annotations

import ctypes
from math import prod

import torch

from runtime.checkpoints import Checkpoint
from runtime.checkpoints.layout import tensor_shapes
from runtime.devices.base import Device
from runtime.devices.huge_pages import use_huge_pages
from runtime.errors import InputError
from runtime.stages import Granularity

DEVICES = ("cpu", "cuda")


def open_device(
    name: str, checkpoint: Checkpoint, dtype: torch.dtype, granularity: Granularity
) -> Device:
    """Load ``checkpoint``'s weights onto the device ``name``.

    Raises:
        InputError: if there is no such device on this machine.
        CheckpointError: if the weights cannot be read.
    """
    device: Device
    if name == "cpu":
        from runtime.devices.cpu import CpuDevice

        device = CpuDevice(checkpoint, dtype, granularity)
    elif name == "cuda":
        from runtime.devices.cuda import CudaDevice

        device = CudaDevice(checkpoint, dtype, granularity)
    else:
        raise InputError(f"device: {name!r} is unknown; choose one of {', '.join(DEVICES)}")
    _trim()
    if name == "cpu":  # a GPU has them in memory of its own
        weights = sum(map(prod, tensor_shapes(checkpoint.config).values()))
        use_huge_pages(weights * dtype.itemsize)
    return device


def _trim() -> None:
    """Give back what the weights took before they were packed: holes in the heap, up to a third of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
