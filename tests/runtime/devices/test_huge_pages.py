"""Weights move to huge pages, and nothing else grows by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.peers import run_script

_OFF = "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()

SETUP = """
import ctypes, mmap, psutil, torch
from runtime.devices.huge_pages import use_huge_pages

def mapped(tensor):
    start = tensor.data_ptr()
    for mapping in psutil.Process().memory_maps(grouped=False):
        low, high = (int(address, 16) for address in mapping.addr.split("-"))
        if low <= start < high:
            return mapping
def huge():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHuge"))
"""


@pytest.mark.skipif(_OFF, reason="needs a kernel that has huge pages on demand")
def test_weights_lie_on_huge_pages_and_stay_what_they_are() -> None:
    run_script(
        SETUP
        + """
weights = [torch.full((576, 1536), float(layer)) for layer in range(40)]  # none is a huge page on its own
before = huge()
use_huge_pages(sum(weight.nbytes for weight in weights))
assert huge() - before > 100_000, (before, huge())  # kB, of 138,000
assert all(bool((weight == layer).all()) for layer, weight in enumerate(weights))
"""
    )


def test_what_is_mostly_empty_is_not_filled() -> None:
    run_script(
        SETUP
        + """
empty = torch.empty(64 << 20, dtype=torch.uint8)
empty[:4096] = 1
use_huge_pages(1 << 30)
assert mapped(empty).rss < 4 << 20
"""
    )


def test_for_few_weights_nothing_is_done() -> None:
    run_script(
        SETUP
        + """
weights = torch.ones(6 << 20)
before = huge()
use_huge_pages(1 << 20)
assert huge() == before
"""
    )
