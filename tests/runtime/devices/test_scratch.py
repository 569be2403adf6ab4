"""Memory that is used again."""

from __future__ import annotations

import torch

from runtime.devices.scratch import Scratch


def test_scratch_memory_is_used_again() -> None:
    scratch = Scratch()
    first = scratch.empty("a", (4, 8), torch.float32)
    assert first.shape == (4, 8)
    assert first.is_contiguous()
    assert scratch.empty("a", (2, 3), torch.float32).data_ptr() == first.data_ptr()
    larger = scratch.empty("a", (100, 8), torch.float32)
    assert larger.shape == (100, 8)
    assert scratch.empty("a", (4, 8), torch.float32).data_ptr() == larger.data_ptr()
    others = [
        scratch.empty("b", (4, 8), torch.float32),
        scratch.empty("a", (4, 8), torch.bfloat16),
    ]
    assert len({larger.data_ptr(), *(other.data_ptr() for other in others)}) == 3
    assert others[1].dtype == torch.bfloat16
