"""Random weights: the same bytes everywhere, of a size that keeps a model of any size near 1."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.checkpoints import load_checkpoint
from runtime.checkpoints.random_weights import random_tensor, write_random_checkpoint
from runtime.errors import CheckpointError
from tests.runtime.models import small_config

seeds = st.integers(0, 2**32)


def test_the_numbers_are_those_of_every_machine() -> None:
    """Of this name and this seed: a worker on another machine makes its own, and they must be these."""
    values = random_tensor("model.layers.0.mlp.up_proj.weight", (2, 3), 20_250_101)
    assert [value.hex() for value in values.flatten().tolist()] == [
        "-0x1.21d6740000000p-1",
        "-0x1.6ff6e00000000p-3",
        "-0x1.933e780000000p-2",
        "0x1.4faab80000000p-2",
        "0x1.a4962c0000000p-1",
        "0x1.38ac380000000p-1",
    ]


@given(rows=st.integers(1, 40), columns=st.integers(1, 400), seed=seeds)
def test_a_matrix_keeps_what_it_multiplies_near_1(rows: int, columns: int, seed: int) -> None:
    """Uniform, of variance 1 / columns."""
    values = random_tensor("a.weight", (rows, columns), seed)
    assert values.dtype == torch.float32
    assert values.shape == (rows, columns)
    assert float(values.abs().max()) <= (3 / columns) ** 0.5 * (1 + 1e-6)


def test_a_large_matrix_has_the_variance_that_it_should() -> None:
    values = random_tensor("a.weight", (500, 1000), 0).double()
    assert float(values.var()) == pytest.approx(1 / 1000, rel=0.02)
    assert abs(float(values.mean())) < 1e-3 * 1000**-0.5 * 3


@given(seed=seeds)
def test_a_norm_lies_near_1_and_is_not_1(seed: int) -> None:
    norm = random_tensor("model.norm.weight", (64,), seed)
    assert float((norm - 1).abs().max()) <= 0.1
    assert not torch.equal(norm, torch.ones(64))
    assert float(random_tensor("a.bias", (64,), seed).abs().max()) <= 0.1


@given(seed=seeds)
def test_a_tensor_depends_on_its_name_and_its_seed_alone(seed: int) -> None:
    made = random_tensor("a.weight", (4, 5), seed)
    assert torch.equal(made, random_tensor("a.weight", (4, 5), seed))
    assert not torch.equal(made, random_tensor("b.weight", (4, 5), seed))
    assert not torch.equal(made, random_tensor("a.weight", (4, 5), seed + 1))


def test_a_checkpoint_is_whole_and_its_making_is_told(tmp_path: Path) -> None:
    config = small_config(attention_bias=True)
    told: list[tuple[int, int]] = []
    write_random_checkpoint(tmp_path, config, 3, lambda *now: told.append(now))
    checkpoint = load_checkpoint(tmp_path, cache_dir=tmp_path / "cache")
    assert checkpoint.config == config
    for name, shape in checkpoint.expected_shapes().items():
        assert torch.equal(checkpoint.tensor(name), random_tensor(name, shape, 3))
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Callable[[Any], Any] = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    with pytest.raises(CheckpointError, match="make room"):
        write_random_checkpoint(tmp_path, small_config(), 3)
    assert list(tmp_path.iterdir()) == []
