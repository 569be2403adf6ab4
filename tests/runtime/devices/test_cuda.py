"""A machine without an NVIDIA GPU says so; where there is one, every test of a device runs on it too."""

from __future__ import annotations

import pytest
import torch

from runtime import STAGES, SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.devices import open_device
from runtime.errors import InputError, SplitError


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
