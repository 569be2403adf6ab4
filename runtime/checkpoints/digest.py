"""The digest by which two processes know that they run the same weights, and where it is kept.

Hashing gigabytes takes seconds, so the cache folder keeps each digest under the paths, sizes and
times of the files that it was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from runtime.checkpoints.cache import Cache
from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.weights import WeightFiles

_SAMPLES = 64
_SAMPLE_BYTES = 1024


def content_digest(config: ModelConfig, weights: WeightFiles, names: Iterable[str]) -> str:
    """sha256 in hexadecimal over the configuration and each tensor's name, dtype, shape and bytes.

    It does not depend on how the tensors are spread over files.
    """
    total = hashlib.sha256(canonical_json(config.to_json_dict()))
    for name in sorted(names):
        tensor = weights.tensor(name)
        total.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def canonical_json(value: object) -> bytes:
    """The one spelling of ``value`` that digests are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered(cache: Cache, what: str, files: Iterable[Path], compute: Callable[[], str]) -> str:
    """``compute()``, or what it gave when these files last had the same sizes and times."""
    key = hashlib.sha256(canonical_json([what, stamps(files)])).hexdigest()
    known = cache.recall(key)
    if known is None:
        known = compute()
        cache.remember(key, known)
    return known


def stamps(files: Iterable[Path]) -> list[list[str | int]]:
    """What tells each file from another at its path: size in bytes, times in nanoseconds, and samples of it.

    A copy that keeps the time, of image layers for instance, may have the size and the time of what it
    replaces; it is another file (inode, change), and where even that was kept, it has other bytes.
    """
    found: list[list[str | int]] = []
    for file in files:
        status = file.stat()
        identity = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        found.append([str(file), *identity, _sampled(file, status.st_size)])
    return found


def _sampled(file: Path, size: int) -> str:
    """Return a checksum of a few kilobytes all over the file."""
    total = hashlib.sha256()
    with file.open("rb") as opened:
        for sample in range(_SAMPLES):
            opened.seek(size * sample // _SAMPLES)
            total.update(opened.read(_SAMPLE_BYTES))
    return total.hexdigest()
