"""Programs of this package in processes of their own that end with this one, whatever they do: see ``parent_watch``."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from runtime.parent_watch import GRACE_S

# The sides take turns on the same cores: a side that waits must not spin on a core the other needs, but
# between the many short parallel regions of one layer a moment of it saves a wake-up each: under 1 ms.
_OPENMP = {"GOMP_SPINCOUNT": "20000"}

# Of this process's environment, what a worker may need; it is not trusted with the rest.
_KEPT = frozenset(
    (
        "CC", "HF_HOME", "HF_HUB_OFFLINE", "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "TEMP", "TMP", "TMPDIR",
        "TZ", "USER", "VIRTUAL_ENV",
    )
)  # fmt: skip
_KEPT_PREFIXES = (
    "ATEN_", "COVERAGE_", "CUDA", "DNNL_", "GOMP_", "KMP_", "LC_", "LD_", "MALLOC_", "MKL_", "NVIDIA_", "OMP_",
    "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "SPLIT_LLAMA_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "XDG_",
)  # fmt: skip

_WATCH = str(Path(__file__).resolve().with_name("parent_watch.py"))


def environment(threads: int) -> dict[str, str]:
    """Return the environment in which a program computes with ``threads`` threads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, **_OPENMP, "OMP_NUM_THREADS": str(threads)}


def import_paths() -> list[str]:
    """Return where a program may import from beyond its interpreter's own places: not the current folder."""
    return [str(path) for path in sys.path if path and Path(path).is_absolute()]


def start(
    module: str,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    stderr: IO[bytes],
    stdout: IO[bytes] | None = None,
    descriptors: Sequence[int] = (),
    folder: str = "",
) -> subprocess.Popen[bytes]:
    """Run ``main(arguments)`` of ``module``; the process that is returned is the one that watches over that.

    ``descriptors`` are inherited; ``folder`` is removed with the watching process.

    Raises:
        OSError: if no process can be started.
    """
    if not sys.executable:
        raise OSError(errno.ENOENT, "this Python does not know its own program (sys.executable)")
    kept = {name: value for name, value in variables.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [
            sys.executable, "-P", _WATCH, str(os.getpid()), folder, json.dumps(import_paths()), module, *arguments,
        ],
        env=kept,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """End what ``start`` started, and wait for that; may be called from any thread, and again."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(2 * GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()  # and the kernel ends what it watches
            process.wait()
