"""What the tests of the runtime share."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from runtime import STAGES, SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.devices.base import Device
from tests.runtime.models import serve_with_device, small_config, temporary_model
from tests.runtime.peers import RealWorker, free_port, small_checkpoint


@pytest.fixture
def folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An empty temporary folder, where whatever is left behind shows. Its path is short: sockets' are."""
    tmp_path_factory.getbasetemp()  # pytest's own is made elsewhere, before
    path = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RealWorker]]:
    """One worker per transport and stage for all tests of a file; a test that loses one spoils no other test.

    Without a stage it is ``shared-memory`` at ``unix`` addresses, and ``baseline`` at ``ipc`` and ``tcp`` ones.
    """
    running: dict[tuple[str, str], RealWorker] = {}
    count = itertools.count()

    def worker(transport: str, stage: str | None = None) -> RealWorker:
        stage = stage or ("shared-memory" if transport == "unix" else "baseline")
        found = running.get((transport, stage))
        if found is None or not found.alive:
            if found is not None:
                found.close()
            address = f"{tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp())}/{next(count)}"
            if transport == "tcp":
                address = f"127.0.0.1:{free_port()}"
            found = running[transport, stage] = RealWorker(stage, f"{transport}://{address}")
        return found

    yield worker
    for one in running.values():
        one.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """What is as small as the tests' models is not worth the waiting of several threads for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small() -> Iterator[Checkpoint]:
    """The model of ``small_config()``: 2 layers, 4 heads of 16 that share 2 key heads, 64 positions."""
    with temporary_model(small_config()) as checkpoint:
        yield checkpoint


@pytest.fixture(scope="module", params=STAGES)
def served(
    small: Checkpoint, request: pytest.FixtureRequest
) -> Iterator[tuple[SplitLlama, Device]]:
    """That model at each stage, in a thread of this process, and the device that computes."""
    with serve_with_device(small, request.param) as pair:
        yield pair


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model of one narrow layer."""
    return small_checkpoint(tmp_path_factory.mktemp("model"))
