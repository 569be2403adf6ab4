"""The hardware that a worker owns. Only ``cuda.py`` knows of GPUs."""

from __future__ import annotations

import torch

from runtime.checkpoints import Checkpoint
from runtime.devices.base import Device
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
    if name == "cpu":
        from runtime.devices.cpu import CpuDevice

        return CpuDevice(checkpoint, dtype, granularity)
    if name == "cuda":
        from runtime.devices.cuda import CudaDevice

        return CudaDevice(checkpoint, dtype, granularity)
    raise InputError(f"device: {name!r} is unknown; choose one of {', '.join(DEVICES)}")
