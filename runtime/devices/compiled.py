"""Kernels in C, compiled on the machine that they run on."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from runtime.checkpoints.cache import Cache
from runtime.errors import SplitError

_log = logging.getLogger(__name__)


@cache
def compiled(name: str, flags: Sequence[str]) -> ctypes.CDLL | None:
    """Return the library of ``name``.c, None where the machine cannot have it.

    It is compiled once per source, flags, processor and cache folder.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        _log.warning("no C compiler: the kernels of %s.c stay unused", name)
        return None
    source = Path(__file__).with_name(f"{name}.c")
    # A folder may be shared by machines, and code for one processor is none for another.
    processor = " ".join(sorted(what for what, has in torch.cpu.get_capabilities().items() if has))
    said = " ".join((*flags, processor)).encode()
    key = hashlib.sha256(source.read_bytes() + said).hexdigest()[:16]

    def build(folder: Path) -> None:
        subprocess.run(
            [compiler, *flags, "-o", str(folder / f"{name}.so"), str(source)],
            check=True,
            capture_output=True,
        )

    try:
        return ctypes.CDLL(str(Cache().obtain(f"{name}-{key}", build) / f"{name}.so"))
    except (OSError, SplitError, subprocess.CalledProcessError) as error:
        _log.warning("the kernels of %s.c cannot be used: %s", name, error)
        return None
