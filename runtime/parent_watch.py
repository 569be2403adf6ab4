"""A worker that ends when its parent ends, whatever it does meanwhile.

``python -P parent_watch.py PARENT FOLDER PATHS MODULE ARGUMENTS``, run as a file. The process forks: the child
becomes the worker, ``MODULE``'s ``main(ARGUMENTS)``, this one watches. It ends the worker when ``PARENT`` ends,
also one that is stopped or no longer obeys, and ends with the worker's status when that ends first; if this
process is killed, the kernel ends the worker.

Only the standard library until the watch stands: importing torch takes seconds, and a parent may be killed in
any of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

GRACE_S = 2.0
"""For a worker that is told to end, before it is made to."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STANDARD_STREAMS = 3


def watch(parent: int, folder: str, paths: Sequence[str]) -> None:
    """Fork; return in the child, which is to become the worker. The other process does not return."""
    # Ctrl-C is the parent's affair, at whose terminal both may be.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        parent_end = os.pidfd_open(parent)
    except ProcessLookupError:
        parent_end = -1
    # The number may have gone to another process before it was opened.
    if parent_end < 0 or os.getppid() != parent:
        _leave(folder, 1)
    watcher = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.close(parent_end)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watcher:
            os._exit(1)
        # Behind what this interpreter finds by itself: no file beside the user's shadows a module.
        sys.path.extend(path for path in paths if path not in sys.path)
        return
    _leave(folder, _watched(worker, parent_end))


def _watched(worker: int, parent_end: int) -> int:
    """Wait for the end of ``worker``, and bring it about when the parent has ended; return its status."""
    worker_end = os.pidfd_open(worker)
    heard, hear = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(hear)
    signal.signal(signal.SIGTERM, lambda *_: None)
    # The other end of what the worker inherited must be its alone: its end is how the parent knows of it.
    kept = {worker_end, parent_end, heard, hear}
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor >= _STANDARD_STREAMS and descriptor not in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    awaited, timeout_s = [worker_end, parent_end, heard], None
    while True:
        ready, _, _ = select.select(awaited, [], [], timeout_s)
        if worker_end in ready:
            break
        if heard in ready:
            os.read(heard, 4096)
            os.kill(worker, signal.SIGTERM)
            timeout_s = GRACE_S
        else:  # the parent has ended, or its patience
            os.kill(worker, signal.SIGKILL)
            awaited, timeout_s = [worker_end], None
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    return code if code >= 0 else 128 - code  # as a shell tells a signal


def _leave(folder: str, status: int) -> NoReturn:
    if folder:
        # Not with all that may lie in it: only the one socket, then the empty folder.
        with contextlib.suppress(OSError):
            (Path(folder) / "worker").unlink()
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    os._exit(status)


def _import_own_package() -> None:
    """Make ``runtime`` the package that this file lies in, whatever else of that name could be imported."""
    package = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        "runtime", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{package}: is no package")
    module = sys.modules["runtime"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
    _import_own_package()
    sys.exit(importlib.import_module(sys.argv[4]).main(sys.argv[5:]))
