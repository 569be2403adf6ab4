"""Keys and values as a device keeps them."""

from __future__ import annotations

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.caches import Window, cache_bytes
from runtime.devices.kv_cache import KvCache
from runtime.errors import ProtocolError
from tests.runtime.models import small_config

CONFIG = small_config()
BATCH, CAPACITY = 3, 20


@given(
    pieces=st.lists(st.integers(1, 7), min_size=1, max_size=5).filter(lambda p: sum(p) <= CAPACITY),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_pieces_that_are_appended_are_together_what_was_appended(
    pieces: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, CONFIG.num_layers, BATCH, CONFIG.num_kv_heads, sum(pieces), CONFIG.head_dim)
    everything = torch.randn(shape, generator=generator)
    cache = KvCache.of(CONFIG, torch.float32, BATCH, CAPACITY)
    start = 0
    for rows in pieces:
        window = Window(start, rows)
        for layer in range(CONFIG.num_layers):
            keys, values = everything[:, layer]
            now = slice(window.start, window.end)
            found = cache.append(layer, window, keys[:, :, now], values[:, :, now])
            assert torch.equal(found[0], keys[:, :, : window.end])
            assert torch.equal(found[1], values[:, :, : window.end])
        start += rows
    for layer in range(CONFIG.num_layers):
        assert torch.equal(cache.keys(layer)[:, :, :start], everything[0, layer])
        assert torch.equal(cache.values(layer)[:, :, :start], everything[1, layer])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_memory_is_as_large_as_was_said(dtype: torch.dtype) -> None:
    cache = KvCache.of(CONFIG, dtype, BATCH, CAPACITY)
    assert cache.memory.dtype == dtype
    assert cache.memory.nbytes == cache_bytes(CONFIG, dtype.itemsize, BATCH, CAPACITY)
    assert cache.memory.is_contiguous()


def test_a_cache_that_the_machine_has_no_memory_for_is_refused_with_both_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = cache_bytes(CONFIG, 4, BATCH, CAPACITY)
    memory = psutil.virtual_memory()._replace(available=size - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(ProtocolError, match=f"needs {size:,} bytes, {size - 1:,} are available"):
        KvCache.of(CONFIG, torch.float32, BATCH, CAPACITY)


def test_what_other_caches_may_yet_take_is_not_promised_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = cache_bytes(CONFIG, 4, BATCH, CAPACITY)
    monkeypatch.setattr("runtime.devices.kv_cache.available_bytes", lambda: 2 * size)
    KvCache.of(CONFIG, torch.float32, BATCH, CAPACITY, promised=size)
    with pytest.raises(ProtocolError, match=f"{size - 1:,} are available"):
        KvCache.of(CONFIG, torch.float32, BATCH, CAPACITY, promised=size + 1)
