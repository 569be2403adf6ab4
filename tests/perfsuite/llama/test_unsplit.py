from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest
import torch

from perfsuite.errors import UnsplitError
from perfsuite.llama.unsplit import DTYPES, Unsplit
from runtime import load_checkpoint

IDS = torch.tensor([[1, 5, 9, 2, 7, 3, 3, 8], [2, 2, 4, 6, 1, 9, 7, 5]])


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Unsplit]]:
    """One process per dtype, started side by side."""
    with ExitStack() as stack:
        yield {dtype: stack.enter_context(Unsplit("tiny", dtype, threads=1)) for dtype in DTYPES}


def ended(pid: int, within_s: float = 2.0) -> bool:
    """Whether the process ends in time; one that nobody has waited for yet has ended too."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_computes_what_transformers_computes(models: dict[str, Unsplit], dtype: str) -> None:
    from transformers import LlamaForCausalLM

    directory = load_checkpoint("tiny").directory
    reference = LlamaForCausalLM.from_pretrained(directory, dtype=DTYPES[dtype])
    with torch.inference_mode():
        expected = reference(IDS).logits[:, -1].float()
    forward = models[dtype].forward(IDS, logits=True)
    assert forward.logits is not None
    torch.testing.assert_close(forward.logits, expected, rtol=1e-5, atol=1e-6)
    assert forward.next_token == int(expected[0].argmax())
    assert 0 < forward.seconds < 10
    assert models[dtype].threads == 1


def test_a_request_that_it_cannot_compute_is_refused_and_it_lives_on(
    models: dict[str, Unsplit],
) -> None:
    model = models["float32"]
    with pytest.raises(UnsplitError, match="index out of range"):
        model.forward(torch.tensor([[10**6]]))
    assert model.forward(IDS).logits is None


def test_a_model_that_cannot_be_loaded_is_named() -> None:
    with Unsplit("no-such-model") as model, pytest.raises(UnsplitError, match="no-such-model"):
        model.wait_until_ready()


def test_a_start_beyond_the_deadline_fails_and_leaves_no_process() -> None:
    with Unsplit("tiny", start_timeout_s=0.01) as model:
        with pytest.raises(UnsplitError, match="float32 model did not answer within"):
            model.forward(IDS)
        assert ended(model.pid)


def test_a_death_while_it_starts_is_told_at_once() -> None:
    with Unsplit("tiny") as model:
        os.kill(model.pid, signal.SIGKILL)
        with pytest.raises(UnsplitError, match="status -9"):
            model.forward(IDS)


def test_a_death_between_requests_is_told_at_once(models: dict[str, Unsplit]) -> None:
    model = models.pop("bfloat16")
    model.wait_until_ready()
    os.kill(model.pid, signal.SIGKILL)
    with pytest.raises(UnsplitError, match="status -9"):
        model.forward(IDS)


def test_it_ends_when_its_parent_is_killed() -> None:
    script = (
        "import time; from perfsuite.llama.unsplit import Unsplit; model = Unsplit('tiny'); "
        "model.wait_until_ready(); print(model.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert psutil.pid_exists(pid)
        finally:
            parent.kill()
    assert ended(pid)
