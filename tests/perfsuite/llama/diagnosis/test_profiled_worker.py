"""The runtime's worker under a profiler: what it leaves behind, and what is said where it leaves nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from perfsuite.errors import MeasurementError
from perfsuite.llama.diagnosis import profiled_worker
from perfsuite.llama.diagnosis.profiled_worker import profiled_forward
from runtime import STAGES, load_checkpoint, worker


class Left(Exception):
    """In the place of the end of the process."""


def test_what_the_worker_computed_is_in_the_profile_and_its_status_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Sequence[str]] = []

    def serve(arguments: Sequence[str]) -> int:
        given.append(arguments)
        torch.mm(torch.ones(9, 9), torch.ones(9, 9))
        return 3

    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(worker, "main", serve)
    monkeypatch.setattr(os, "_exit", leave)
    file = tmp_path / "profile.json"
    with pytest.raises(Left) as left:
        profiled_worker.main([str(file), "--model", "tiny"])
    assert left.value.args == (3,)
    assert given == [["--model", "tiny"]]
    names = {event.get("name") for event in json.loads(file.read_text())["traceEvents"]}
    assert "aten::mm" in names


def test_a_worker_that_does_not_start_is_told(tmp_path: Path) -> None:
    checkpoint = load_checkpoint("tiny")
    gone = type(checkpoint)(str(tmp_path / "elsewhere"), checkpoint.directory, checkpoint._cache)
    with pytest.raises(MeasurementError, match="the profiled worker of fused did not start"):
        profiled_forward(
            gone, STAGES["fused"], torch.zeros(1, 4, dtype=torch.int64),
            device="cpu", threads=1, number=0,
        )  # fmt: skip
