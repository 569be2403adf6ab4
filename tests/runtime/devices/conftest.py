from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from runtime.checkpoints import Checkpoint
from runtime.devices import open_device
from runtime.devices.base import Device
from tests.runtime.models import DEVICES, small_config, write_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    config = small_config(attention_bias=True, mlp_bias=True)
    return write_model(tmp_path_factory.mktemp("models") / "small", config)


@pytest.fixture(scope="module", params=DEVICES)
def device_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def by_operation(checkpoint: Checkpoint, device_name: str) -> Iterator[Device]:
    with torch.no_grad():
        yield open_device(device_name, checkpoint, torch.float32, "operation")
