"""The trusted side's operations: on the memory that a transport would give them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from perfsuite.llama.diagnosis.trusted_operations import TrustedOperations
from perfsuite.llama.recording import operations
from perfsuite.llama.workload import Operation
from runtime import STAGES
from tests.runtime.models import small_config

TOKENS = 12


ARENA_BYTES = 1 << 20


ROWS = {
    f"{row.side} {row.kind} {row.dtype} {row.memory}": row
    for stage in STAGES.values()
    for row in operations(small_config(), stage, TOKENS)
}


def trusted(kind: str, memory: str) -> Operation:
    return dataclasses.replace(ROWS[f"trusted {kind} float32 arena"], memory=memory)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["rms_norm", "rope", "split_heads", "softmax", "silu_mul"])
def test_arena_results_lie_in_the_arena_and_are_released(kind: str) -> None:
    builder = TrustedOperations(ARENA_BYTES)
    free = builder.free_bytes
    result = builder.build(trusted(kind, "arena"))()
    assert isinstance(result, torch.Tensor)
    assert builder.free_bytes < free
    del result
    assert builder.free_bytes == free


def test_private_results_are_new_each_time() -> None:
    run = TrustedOperations(ARENA_BYTES).build(trusted("softmax", "private"))
    one, other = run(), run()
    assert isinstance(one, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert one.data_ptr() != other.data_ptr()
