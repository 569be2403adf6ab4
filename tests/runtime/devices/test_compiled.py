"""Kernels in C: compiled once, and where they cannot be, only speed is lost."""

from __future__ import annotations

import ctypes
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from runtime.devices.compiled import compiled

COMPILER = shutil.which("cc") or shutil.which("gcc")
FLAGS = ("-O1", "-march=native", "-fopenmp", "-shared", "-fPIC")

# Without what it remembers: each test has a compiler and a cache of its own.
compile_: Callable[[str, Sequence[str]], ctypes.CDLL | None] = compiled.__wrapped__


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(tmp_path / "cache"))


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only C compiler that is found is this script."""
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(path) if name == "cc" else None)


def test_without_a_compiler_the_kernels_stay_unused_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert compile_("decode", FLAGS) is None
    assert "no C compiler" in caplog.text
    assert "decode.c" in caplog.text


@pytest.mark.parametrize(
    "script",
    ["exit 1", 'while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"'],
    ids=["it fails", "what it makes is no library"],
)
def test_a_compiler_that_makes_nothing_of_use_costs_speed_and_no_error(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler(tmp_path, script, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert compile_("decode", FLAGS) is None
    assert "cannot be used" in caplog.text


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_a_library_is_compiled_once_per_source_flags_and_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    compiler(tmp_path, f'echo "$@" >> {log}; exec {COMPILER} "$@"', monkeypatch)
    for _ in range(2):
        library = compile_("decode", FLAGS)
        assert library is not None
        assert library.few_rows is not None
    (line,) = log.read_text().splitlines()
    assert "-march=native" in line.split()
    assert compile_("decode", (*FLAGS, "-g")) is not None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"another": True})
    assert compile_("decode", FLAGS) is not None
    assert len(log.read_text().splitlines()) == 3
