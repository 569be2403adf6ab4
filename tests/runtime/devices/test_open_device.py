"""A device is opened by its name."""

from __future__ import annotations

import pytest
import torch

from runtime import SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.devices import open_device
from runtime.errors import InputError


@pytest.mark.parametrize("name", ["", "tpu", "CPU", "cuda:0"])
def test_an_unknown_device_is_refused_with_the_known_ones(
    checkpoint: Checkpoint, name: str
) -> None:
    for attempt in (
        lambda: open_device(name, checkpoint, torch.float32, "layer"),
        lambda: SplitLlama.launch(checkpoint, "fused", device=name),
    ):
        with pytest.raises(InputError, match=r"device: .* cpu, cuda") as caught:
            attempt()
        assert repr(name) in str(caught.value)
