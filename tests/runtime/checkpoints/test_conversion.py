"""Conversions run in a process of their own, of which nothing is left and nothing is shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from runtime.checkpoints import load_checkpoint
from runtime.checkpoints.conversion import convert_gguf
from runtime.errors import CheckpointError
from tests.runtime.checkpoints.test_gguf import (
    METADATA,
    VOCABULARY,
    model_of,
    tensors_of,
    write_gguf,
)
from tests.runtime.peers import Footprint, wait_until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    write_gguf(path, tensors_of(model_of()), {**METADATA, **VOCABULARY})
    return path


@contextmanager
def printing(lines: list[str]) -> Iterator[None]:
    """Print in another thread meanwhile, and note what."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.002):
            lines.append(f"line {len(lines)}")
            print(lines[-1])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_what_other_threads_print_meanwhile_is_not_lost(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    stdout = sys.stdout
    with printing(lines):
        load_checkpoint(file, cache_dir=tmp_path / "cache")
    assert sys.stdout is stdout
    shown = capfd.readouterr()
    assert shown.out.splitlines() == lines
    assert len(lines) > 10
    assert shown.err == ""


def converters() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "runtime.checkpoints.gguf" in process.cmdline()
    ]


def kill_the_converter(number: signal.Signals) -> threading.Thread:
    def kill() -> None:
        assert wait_until(lambda: len(converters()) == 2)  # the one that watches, and the watched
        converters()[-1].send_signal(number)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_conversion_that_dies_is_named_and_leaves_nothing(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = Footprint.of()
    killer = kill_the_converter(signal.SIGBUS)  # as of a file that was cut
    with pytest.raises(CheckpointError, match=r"small\.gguf cannot be converted: .* SIGBUS"):
        load_checkpoint(file, cache_dir=cache)
    killer.join()
    assert Footprint.of() == before
    assert [
        path.name for path in cache.iterdir() if path.name.startswith("gguf") and path.is_dir()
    ] == []


def test_a_file_that_changes_during_its_conversion_is_not_taken(file: Path, tmp_path: Path) -> None:
    directory = tmp_path / "made"
    directory.mkdir()

    def change() -> None:
        assert wait_until(lambda: bool(converters()))
        os.utime(file)

    changer = threading.Thread(target=change)
    changer.start()
    with pytest.raises(CheckpointError, match=r"small\.gguf was replaced or written to"):
        convert_gguf(file, directory)
    changer.join()


INTERRUPTED = """
import sys, runtime
from pathlib import Path
try:
    runtime.load_checkpoint(sys.argv[1], cache_dir=Path(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_conversion_ends_with_whoever_wanted_it(
    number: signal.Signals, file: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(file), str(tmp_path / "cache")]
    )
    mine = psutil.Process(process.pid)
    assert wait_until(lambda: len(mine.children(recursive=True)) == 2)
    started = mine.children(recursive=True)
    process.send_signal(number)
    assert process.wait(20) == (7 if number == signal.SIGINT else -number)
    assert psutil.wait_procs(started, timeout=10)[1] == []


def test_without_a_process_it_says_so(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", None)
    with pytest.raises(CheckpointError, match=r"no process can be started \(.*sys\.executable"):
        load_checkpoint(file, cache_dir=tmp_path / "cache")


def test_what_is_set_in_this_process_does_not_matter(file: Path, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        checkpoint = load_checkpoint(file, cache_dir=tmp_path / "cache")
        norm = checkpoint.tensor("model.norm.weight")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(norm, torch.ones(64))
    assert checkpoint.tokenizer().encode("a12")
