"""Runs the ``runtime`` of one tree, through its public interface alone.

This very file is executed against the installed tree by the gate, and against head's and BASE's by a
comparison, whose own ``perfsuite`` may be older or absent: it imports nothing of ``perfsuite``. Each
``open`` gets a fresh trusted process and, beneath it, a fresh worker process. They are forked from this
one, which has only imported what they need, because importing torch is most of what starting them costs.

    <- {"stages": ["baseline", ...]}                                                 once
    -> {"open": {"model": "tiny", "stage": "fused", "tokens": 64, "device": "cpu", "threads": 1,
                 "cpu": 1,             the processor that both run on; null: any
                 "slowdown": {}}}      factors by phase
    <- {"pids": [1, 2]}                the same two                     or {"error": "..."}
    -> {"run": true}
    <- {"seconds": 0.006, "phases": {"device": 0.004}}                  or {"error": "..."}
    -> {"close": true}
    <- {"closed": true}
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime import SplitLlama

_START_TIMEOUT_S = 120.0
_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1


# Opens what is asked for: gives the processes that it runs in, and what runs it once and says what it took.
Session = Callable[
    [Mapping[str, Any]],
    AbstractContextManager[tuple[Sequence[int], Callable[[], Mapping[str, Any]]]],
]


def main() -> int:
    """Serve stages of the runtime in the current folder."""
    tree = Path.cwd()
    answers = claim_stdout()
    try:
        import runtime
        import runtime.worker  # with all that a worker needs
        from runtime import STAGES, SplitLlama, load_checkpoint  # noqa: F401 - for what is forked
    except Exception as error:  # noqa: BLE001 - whatever a revision raises is the caller's to report
        _send(answers, {"error": f"its runtime cannot be imported: {_words(error)}"})
        return 1
    # An installed runtime must not stand in for one that the tree does not have.
    origin = Path(runtime.__file__ or "").resolve()
    if not origin.is_relative_to(tree.resolve()):
        _send(answers, {"error": "it has no package runtime"})
        return 1
    _send(answers, {"stages": list(STAGES)})
    serve(_split, answers)
    return 0


def serve(session: Session, answers: IO[bytes]) -> None:
    """Open sessions, each in a fresh process, until stdin ends."""
    # What is there by now stays: no child is to walk through it, and copy its pages by that.
    gc.collect()
    gc.freeze()
    while (request := _receive()) is not None:
        if "open" not in request:  # for a session that failed
            _send(answers, {"error": "nothing is open"})
            continue
        child = os.fork()  # no thread of this process has computed anything yet
        if child == 0:
            os._exit(_serve_one(session, request["open"], answers))
        _, status = os.waitpid(child, 0)
        if status:
            _send(answers, {"error": f"its process ended with status {status}"})


def _serve_one(session: Session, options: Mapping[str, Any], answers: IO[bytes]) -> int:
    """Open one session, serve it until it is closed, and return this process's exit status."""
    _end_with_parent()
    try:
        with session(options) as (pids, run):
            gc.collect()
            gc.freeze()
            gc.disable()
            _send(answers, {"pids": list(pids)})
            while (request := _receive()) is not None and "run" in request:
                _send(answers, run())
    except Exception as error:  # noqa: BLE001 - as above
        traceback.print_exc()
        _send(answers, {"error": _words(error)})
        return 0
    _send(answers, {"closed": True})
    return 0


@contextmanager
def _split(
    options: Mapping[str, Any],
) -> Iterator[tuple[Sequence[int], Callable[[], Mapping[str, Any]]]]:
    """A stage: a trusted process, this one, and its worker."""
    with _launched(options) as (llama, worker):
        ids = prompt(llama.config.vocab_size, int(options["tokens"]))

        def run() -> Mapping[str, Any]:
            started = time.perf_counter()
            llama.forward(ids)
            seconds = time.perf_counter() - started
            return {"seconds": seconds, "phases": _phases(llama)}

        yield (os.getpid(), worker), run


@contextmanager
def _launched(options: Mapping[str, Any]) -> Iterator[tuple[SplitLlama, int]]:
    import torch

    from runtime import SplitLlama, load_checkpoint

    stage, device, threads = options["stage"], options["device"], int(options["threads"])
    # A revision need not know what is not asked for.
    slower = {"slowdown": options["slowdown"]} if options.get("slowdown") else {}
    pin(options["cpu"])  # and all that it starts from here on
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(options["model"])
    if threads == 1 and device == "cpu":
        with _forked(checkpoint, options, slower) as (llama, worker):
            yield llama, worker
        return
    # OpenMP takes its waiting policy, which the runtime chooses for a worker, from the environment when it
    # is loaded; and no device driver is known to survive a fork. So here the runtime starts its own.
    with SplitLlama.launch(checkpoint, stage, device, threads=threads, **slower) as llama:
        yield llama, int(llama.worker_info["pid"])


@contextmanager
def _forked(
    checkpoint: Any, options: Mapping[str, Any], slower: Mapping[str, Any]
) -> Iterator[tuple[SplitLlama, int]]:
    """Start a worker by its command line's own function, and connect to it."""
    from runtime import STAGES, SplitLlama

    stage, device = options["stage"], options["device"]
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        address = Path(folder) / "s"  # short: an address may have no more than 107 bytes
        errors = Path(folder) / "errors"
        scheme = "unix" if STAGES[stage].transport == "shared-memory" else "ipc"
        endpoint = f"{scheme}://{address}"
        command = ["--model", options["model"], "--stage", stage, "--device", device]
        command += ["--threads", str(options["threads"]), "--endpoint", endpoint]
        for phase, factor in slower.get("slowdown", {}).items():
            command += ["--slowdown", f"{phase}={factor}"]
        worker = _fork_worker(command, errors)
        try:
            _wait_for(address, worker, errors)
            with _patiently(
                lambda: SplitLlama.launch(checkpoint, stage, device, endpoint=endpoint, **slower)
            ) as llama:
                yield llama, worker
        finally:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)


def _fork_worker(command: Sequence[str], errors: Path) -> int:
    worker = os.fork()
    if worker:
        return worker
    _end_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    from runtime.worker import main

    try:
        os._exit(main(command))
    finally:
        traceback.print_exc()
        os._exit(1)


def pin(cpu: int | None) -> None:
    """Run on this processor alone; on any if it is None."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def _patiently(launch: Callable[[], SplitLlama]) -> SplitLlama:
    """Connect; again after a moment, because an address is there a little before somebody listens at it."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return launch()
        except Exception:  # noqa: BLE001 - the last attempt's is the one that is told
            time.sleep(0.1)
    return launch()


def _wait_for(address: Path, worker: int, errors: Path) -> None:
    """Wait until the worker has made its address."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not address.exists():
        if os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            words = errors.read_text(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"the worker ended at its start: {words}")
        if time.monotonic() > deadline:
            raise RuntimeError("the worker did not listen within its deadline")
        time.sleep(0.002)


def prompt(vocabulary: int, tokens: int) -> Any:
    """Return token ids, (1, tokens), always the same."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (1, tokens), generator=generator)


def _phases(llama: SplitLlama) -> dict[str, float]:
    """Seconds of the last forward by phase, whichever phases this revision knows."""
    totals: Mapping[str, Any] = llama.last_trace.totals()
    return {
        name.removesuffix("_s"): float(value)
        for name, value in totals.items()
        if name.endswith("_s") and name != "total_s"
    }


def _end_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended just before
        os._exit(1)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def claim_stdout() -> IO[bytes]:
    """Keep stdout for answers alone: what a library prints goes to stderr from here on."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return answers


def _receive() -> dict[str, Any] | None:
    """Return the next request, None at the end. Unbuffered: a forked process may read the next one."""
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            return None
        line += chunk
    request: dict[str, Any] = json.loads(line)
    return request


def _send(pipe: IO[bytes], message: Mapping[str, Any]) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
