"""The operations that are timed: all of a forward's, on the memory and with the shapes that it has."""

from __future__ import annotations

import pytest
import torch

from perfsuite.llama.diagnosis.device_operations import DeviceOperations
from perfsuite.llama.diagnosis.trusted_operations import TrustedOperations
from perfsuite.llama.recording import operations
from runtime import STAGES
from tests.runtime.models import small_config

TOKENS = 12
ARENA_BYTES = 1 << 20
ROWS = {
    f"{row.side} {row.kind} {row.dtype} {row.memory}": row
    for stage in STAGES.values()
    for row in operations(small_config(), stage, TOKENS)
}


@pytest.mark.parametrize("name", ROWS)
def test_every_operation_of_every_stage_runs(name: str) -> None:
    row = ROWS[name]
    with torch.no_grad():
        if row.side == "device":
            DeviceOperations().build(row)()
        else:
            TrustedOperations(ARENA_BYTES).build(row)()


def test_what_a_side_does_not_compute_is_refused() -> None:
    with pytest.raises(KeyError, match="softmax"):
        DeviceOperations().build(ROWS["trusted softmax float32 arena"])
    with pytest.raises(KeyError, match="attention"):
        TrustedOperations(ARENA_BYTES).build(ROWS["device attention float32 arena"])
