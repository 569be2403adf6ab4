"""A stage of the split model as a benchmark, and the unsplit model as its reference, in one measured process.

Nothing is started before the first call: the session that measures runs the test as well, up to its gate.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM  # noqa: F401 - once in a server, not in what it forks

import runtime.worker  # with all that a worker needs
from perfsuite.llama.addresses import is_made, own_address
from perfsuite.llama.stage_workload import StageWorkload
from perfsuite.llama.unsplit import DTYPES, load_unsplit
from perfsuite.processes.child import end_with_parent
from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.context import Context
from runtime.trace import Trace
from runtime.transports.registry import TRANSPORTS

DECODED = 8  # tokens, so that cutting them off again hardly counts

_START_TIMEOUT_S = 120.0
_ATTEMPTS = 3


class StageBenchmark:
    """A stage that is launched by its first call; a context manager that ends it."""

    def __init__(self, stage: str, workload: StageWorkload, delays: Mapping[str, float]) -> None:
        self._stage, self._workload, self._delays = stage, workload, delays
        self._resources = ExitStack()
        self._traces: tuple[Trace, ...] = ()

    def forward(self) -> None:
        """Run one forward pass of the split model."""
        self._llama.forward(self._ids)
        self._traces = (self._llama.last_trace,)

    def decode(self) -> None:
        """Append ``DECODED`` tokens to the prompt, one after another, and cut them off again."""
        context = self._context
        traces = []
        for token in self._ids[0, :DECODED].tolist():
            context.append([token])
            traces.append(self._llama.last_trace)
        context.trim(context.length - DECODED)
        self._traces = (*traces, self._llama.last_trace)

    def unsplit_decode(self) -> None:
        """Do the same with the unsplit model and its own cache."""
        with torch.inference_mode():
            cache = self._unsplit_cache
            for position in range(DECODED):
                output = self._unsplit(
                    input_ids=self._device_ids[:, position : position + 1],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                output.logits[:, -1].float().cpu()
            cache.crop(-DECODED)  # so many at its end

    def unsplit_forward(self) -> None:
        """Run one forward pass of the unsplit model in this process, on the same weights and device."""
        with torch.inference_mode():
            output = self._unsplit(input_ids=self._device_ids, use_cache=False, logits_to_keep=1)
            # To the caller's memory, as the split model hands them over: waits for any device.
            output.logits[:, -1].float().cpu()

    def phases(self) -> Mapping[str, float]:
        """Return the seconds of the last call of the benchmark by phase, whichever phases this revision knows."""
        sums: Counter[str] = Counter()
        for trace in self._traces:
            totals: Mapping[str, Any] = trace.totals()
            for name, value in totals.items():
                if name.endswith("_s") and name != "total_s":
                    sums[name.removesuffix("_s")] += value
        return dict(sums)

    def __enter__(self) -> StageBenchmark:
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    @cached_property
    def _checkpoint(self) -> Any:
        if self._workload.threads:
            torch.set_num_threads(self._workload.threads)
        return load_checkpoint(self._workload.model)

    @cached_property
    def _ids(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (1, self._workload.tokens)
        return torch.randint(self._checkpoint.config.vocab_size, shape, generator=generator)

    @cached_property
    def _device_ids(self) -> torch.Tensor:
        return self._ids.to(self._workload.device)

    @cached_property
    def _llama(self) -> SplitLlama:
        workload, checkpoint = self._workload, self._checkpoint
        # A revision need not know what is not asked for.
        slower: dict[str, Any] = {"slowdown": dict(self._delays)} if self._delays else {}
        if workload.threads == 1 and workload.device == "cpu":
            launched: AbstractContextManager[SplitLlama] = _forked(
                checkpoint, self._stage, workload, slower
            )
        else:
            # OpenMP takes its waiting policy, which the runtime chooses for a worker, from the environment when
            # it is loaded; and no device driver is known to survive a fork. So the runtime starts its own.
            launched = SplitLlama.launch(
                checkpoint,
                self._stage,
                workload.device,
                threads=workload.threads or None,
                **slower,
            )
        return self._resources.enter_context(launched)

    @cached_property
    def _context(self) -> Context:
        tokens = self._workload.tokens
        context = self._resources.enter_context(self._llama.open_context(1, tokens + DECODED))
        context.append(self._ids)
        return context

    @cached_property
    def _unsplit_cache(self) -> Any:
        return self._unsplit(
            input_ids=self._device_ids, use_cache=True, logits_to_keep=1
        ).past_key_values

    @cached_property
    def _unsplit(self) -> Any:
        dtype = _computed_dtype(self._stage, self._workload.device)
        return load_unsplit(self._checkpoint, DTYPES[dtype], self._workload.device)


def _computed_dtype(stage: str, device: str) -> str:
    """Return what the stage's products are made in: the reference's, emulated, would be of another kind."""
    from runtime.devices.cpu import has_bfloat16_products

    if device == "cpu" and not has_bfloat16_products():
        return "float32"
    return STAGES[stage].dtype


@contextmanager
def _forked(
    checkpoint: Any, stage: str, workload: StageWorkload, slower: Mapping[str, Any]
) -> Iterator[SplitLlama]:
    """Start a worker by its command line's own function in a fork of this process, and connect to it.

    Importing torch anew takes seconds, and no thread of this process has computed anything yet.
    """
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        errors = Path(folder) / "errors"
        endpoint = own_address(TRANSPORTS[STAGES[stage].transport].scheme, folder)
        command = ["--model", workload.model, "--stage", stage, "--device", workload.device]
        command += ["--threads", str(workload.threads), "--endpoint", endpoint]
        worker = _fork_worker(command, errors)
        try:
            _wait_for(endpoint, worker, errors)
            with _patiently(
                lambda: SplitLlama.launch(
                    checkpoint, stage, workload.device, endpoint=endpoint, **slower
                )
            ) as llama:
                yield llama
        finally:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)


def _fork_worker(command: Sequence[str], errors: Path) -> int:
    worker = os.fork()
    if worker:
        return worker
    end_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = sys.__stderr__  # pytest's takes what is written elsewhere
    try:
        os._exit(runtime.worker.main(command))
    finally:
        traceback.print_exc()
        os._exit(1)


def _patiently(launch: Callable[[], SplitLlama]) -> SplitLlama:
    """Connect; again after a moment, because an address is there a little before somebody listens at it."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return launch()
        except Exception:  # noqa: BLE001 - the last attempt's is the one that is told
            time.sleep(0.1)
    return launch()


def _wait_for(endpoint: str, worker: int, errors: Path) -> None:
    """Wait until the worker has made its address."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not is_made(endpoint):
        if os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            words = errors.read_text(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"the worker ended at its start: {words}")
        if time.monotonic() > deadline:
            raise RuntimeError("the worker did not listen within its deadline")
        time.sleep(0.002)
