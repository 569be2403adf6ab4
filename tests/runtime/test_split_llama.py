"""A split LLaMA as its user has it: arguments, threads, forks, and closing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from runtime import STAGES, SplitError, SplitLlama
from runtime.checkpoints import Checkpoint
from runtime.errors import InputError, WorkerError
from tests.runtime.peers import (
    PATIENCE_S,
    Ending,
    Footprint,
    busy_s,
    forward_until_it_fails,
    leftovers,
    run_script,
    tiny,
    wait_until,
    worker_pid,
)

PROMPT = list(range(20))
# Long enough to be killed in the middle of, on any machine: tens of milliseconds a call.
LONG_PROMPT = [[1] * 1024] * 4


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_closing_ends_the_worker_and_leaves_nothing(stage: str, folder: Path) -> None:
    before = Footprint.of()
    with SplitLlama.launch(tiny(), stage) as llama:
        llama.forward(PROMPT)
        ending = Ending(worker_pid(llama))
        assert leftovers(folder) == [], "both ends have met"
    assert ending.comes_within(0)
    llama.close()
    with pytest.raises(SplitError):
        llama.forward(PROMPT)
    llama.close()
    assert Footprint.of() == before
    assert leftovers(folder) == []


# One stage for each way between the processes.
@pytest.mark.parametrize("stage", ["baseline", "shared-memory", "fused-tcp"])
def test_a_llama_that_nobody_has_any_more_is_closed(stage: str, folder: Path) -> None:
    before = Footprint.of()
    llama = SplitLlama.launch(tiny(), stage, threads=1)
    llama.forward(PROMPT)
    ending = Ending(worker_pid(llama))
    del llama  # at once: it is no part of a cycle
    assert ending.comes_within(0)
    assert Footprint.of() == before
    assert leftovers(folder) == []


def test_a_closed_llama_says_that_it_is_closed() -> None:
    llama = SplitLlama.launch(tiny(), "shared-memory", threads=1)
    llama.close()
    for use in (llama.ping, lambda: llama.forward(PROMPT)):
        with pytest.raises(WorkerError, match="this model is closed"):
            use()


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_closing_in_the_middle_of_another_threads_call_ends_that_with_an_error(
    stage: str, folder: Path
) -> None:
    before = Footprint.of()
    llama = SplitLlama.launch(tiny(), stage)
    llama.forward(PROMPT)
    busy_before = busy_s(worker_pid(llama))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(forward_until_it_fails, llama, LONG_PROMPT)
        assert wait_until(lambda: busy_s(worker_pid(llama)) > busy_before + 0.02)
        llama.close()
        with pytest.raises(WorkerError):
            running.result(PATIENCE_S)
    del running  # with the error, the frames that it came through, and their tensors
    assert Footprint.of() == before
    assert leftovers(folder) == []


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_fork_is_refused_and_does_not_disturb_its_parent(stage: str) -> None:
    code = """
import os, sys, runtime
llama = runtime.SplitLlama.launch(runtime.load_checkpoint("tiny"), sys.argv[1], threads=1)
before = llama.forward([1, 2, 3])
child = os.fork()
if child == 0:
    try:
        llama.forward([1, 2, 3])
    except runtime.SplitError as error:
        llama.close()
        del llama
        os._exit(0 if "fork" in str(error) else 3)
    os._exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert llama.forward([1, 2, 3]).equal(before)
llama.close()
"""
    run_script(code, arguments=[stage])


@pytest.mark.parametrize("name", ["timeout_s", "start_timeout_s"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 1e300, 3e6, "5", None])
def test_a_deadline_that_is_none_is_refused_before_anything_starts(
    name: str, value: float, folder: Path
) -> None:
    settings = {name: value}
    launch: Callable[..., SplitLlama] = SplitLlama.launch
    before = Footprint.of()
    with pytest.raises(InputError, match=f"^{name}: "):
        launch(tiny(), "fused", **settings)
    assert Footprint.of() == before


@pytest.mark.parametrize("threads", [0, -1, 2.5, "2", True, 2**40])
def test_a_number_of_threads_that_is_none_is_refused(threads: object) -> None:
    launch: Callable[..., SplitLlama] = SplitLlama.launch
    with pytest.raises(InputError, match=r"^threads: "):
        launch(tiny(), "fused", threads=threads)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("tiny",), "checkpoint: must be what load_checkpoint returns"),
        ((tiny(), STAGES["fused"]), "stage: "),
    ],
    ids=["a name", "a row"],
)
def test_an_argument_of_another_kind_is_refused_by_name(
    arguments: tuple[object, ...], problem: str
) -> None:
    launch: Callable[..., SplitLlama] = SplitLlama.launch
    with pytest.raises(InputError, match=problem):
        launch(*arguments)


def test_the_longest_deadline_is_a_deadline() -> None:
    for stage in ("baseline", "shared-memory"):
        with SplitLlama.launch(tiny(), stage, threads=1, timeout_s=1e6) as llama:
            llama.ping()


def forwards(llama: SplitLlama, prompts: Sequence[list[int]]) -> list[torch.Tensor]:
    return [llama.forward(prompt) for prompt in prompts]


def test_threads_that_share_a_llama_take_turns(checkpoint: Checkpoint) -> None:
    prompts = [[token] * length for token, length in ((1, 3), (2, 40), (3, 7), (4, 90))]
    with SplitLlama.launch(checkpoint, "shared-memory", threads=1) as llama:
        alone = forwards(llama, prompts)
        with ThreadPoolExecutor(4) as pool:
            together = pool.map(lambda _: forwards(llama, prompts), range(4))
        for logits in together:
            assert all(map(torch.equal, logits, alone))


def test_an_unknown_stage_or_device_is_refused_before_an_address_is_tried() -> None:
    with pytest.raises(InputError, match=r"stage: 'warp'.*baseline"):
        SplitLlama.launch(tiny(), "warp", endpoint="nonsense")
    with pytest.raises(InputError, match=r"device: 'abacus'.*cpu"):
        SplitLlama.launch(tiny(), device="abacus", endpoint="nonsense")


@pytest.mark.parametrize("stage", ["baseline", "fused"])
def test_a_default_device_or_dtype_of_the_callers_changes_nothing(stage: str) -> None:
    with SplitLlama.launch(tiny(), stage, threads=1) as llama:
        expected = llama.forward(PROMPT)
    torch.set_default_device("meta")  # as "cuda" would be, on any machine
    torch.set_default_dtype(torch.float64)
    try:
        with SplitLlama.launch(tiny(), stage, threads=1) as llama:
            logits = llama.forward(PROMPT)
            again = llama.forward(torch.tensor(PROMPT, device="cpu"))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(logits, expected)
    assert torch.equal(again, expected)


def test_a_child_that_was_forked_may_end_as_it_likes() -> None:
    """Collected, and through every handler at exit: libzmq asserts where its sockets are closed in a fork."""
    code = """
import gc, os, sys, runtime
llama = runtime.SplitLlama.launch(runtime.load_checkpoint("tiny"), "baseline", threads=1)
before = llama.forward([1, 2, 3])
child = os.fork()
if child == 0:
    del llama
    gc.collect()
    sys.exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
assert llama.forward([1, 2, 3]).equal(before)
llama.close()
"""
    run_script(code)
