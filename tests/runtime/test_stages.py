"""The ladder as data."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from runtime import STAGES, SplitError
from runtime.errors import InputError
from runtime.stages import find_stage, ladder


def test_the_ladder_is_that_of_the_specification() -> None:
    rows = [
        (stage.name, stage.transport, stage.granularity, stage.dtype, stage.attention)
        for stage in ladder()
    ]
    assert rows == [
        ("baseline", "zmq-msgpack", "operation", "float32", "trusted"),
        ("shared-memory", "shared-memory", "operation", "float32", "trusted"),
        ("fused", "shared-memory", "layer", "float32", "fused"),
        ("bf16", "shared-memory", "layer", "bfloat16", "fused"),
        ("resident", "shared-memory", "model", "bfloat16", "fused"),
    ]


def test_stages_are_found_by_their_own_names_in_order() -> None:
    assert list(STAGES) == ["baseline", "shared-memory", "fused", "bf16", "resident", "fused-tcp"]
    for name, stage in STAGES.items():
        assert stage.name == name
        assert find_stage(name) is stage


def test_a_row_beside_the_ladder_differs_by_one_change_from_the_one_it_names() -> None:
    beside = [stage for stage in STAGES.values() if stage.beside]
    assert [stage.name for stage in beside] == ["fused-tcp"]
    for stage in beside:
        other, own = (dataclasses.asdict(row) for row in (STAGES[stage.beside], stage))
        changed = {name for name in own if own[name] != other[name]}
        assert len(changed - {"name", "beside", "worker_sees"}) == 1


def test_element_types() -> None:
    assert {name: stage.torch_dtype for name, stage in STAGES.items()} == {
        "baseline": torch.float32,
        "shared-memory": torch.float32,
        "fused": torch.float32,
        "bf16": torch.bfloat16,
        "resident": torch.bfloat16,
        "fused-tcp": torch.float32,
    }


def test_what_the_worker_sees_follows_from_what_crosses() -> None:
    for stage in STAGES.values():
        sees_operations = "attention weights" in stage.worker_sees
        assert sees_operations == (stage.granularity == "operation")
        assert ("hidden state" in stage.worker_sees) == (stage.granularity != "operation")
        # every stage asks the worker to look embeddings up and to multiply by lm_head
        assert stage.worker_sees.startswith("token ids, ")
        assert stage.worker_sees.endswith(", logits")


def test_the_ladder_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        STAGES["extra"] = STAGES["fused"]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        STAGES["fused"].dtype = "bfloat16"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "Baseline", "fused ", "fp8", "baseline,fused"])
def test_an_unknown_stage_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        InputError, match=r"stage: .* baseline, shared-memory, fused, bf16, resident"
    ) as caught:
        find_stage(name)
    assert repr(name) in str(caught.value)
    assert isinstance(caught.value, SplitError)
